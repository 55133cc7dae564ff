"""How much of everything a training takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How much of everything; ``frames`` and ``batch`` are of the network's training."""

    songs: int = 360
    song_s: float = 9.6
    held_out: int = 12
    held_out_s: float = 12.8
    teacher_clips: int = 2000
    teacher_steps: int = 1500
    encoder_steps: int = 6000
    decoder_steps: int = 12_000
    refined_decoder_steps: int = 3000
    base_steps: int = 6000
    turbo_steps: int = 1500
    batch: int = 32
    frames: int = 160
    save_every_s: float = 120.0


PLANS = {
    "full": Plan(),
    "small": Plan(1, 6.4, 1, 6.4, 8, 20, 3, 3, 2, 3, 2, 4, 160, 0.0),  # whether it all runs; saved at every step
}
