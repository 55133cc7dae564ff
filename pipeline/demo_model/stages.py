"""The stages of training, in order; each starts from what the ones before left on disk.

songs            compositions played in all genres
teacher          the latents to be learned
encoder          sound to latents              (independent of the decoder: both can be trained at the same time)
decoder          latents to sound
refined_decoder  the decoder on what the encoder says
latents          songs as latents, in one file
base             codes, conditions and the diffusion transformer, by flow matching
turbo            eight steps without guidance, distilled from base
export           a checkpoint folder in the published layout
"""

from collections.abc import Callable

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from acestep.model.autoencoder import Decoder
from pipeline.demo_model import (
    autoencoding,
    distilling,
    export,
    flow,
    network,
    preparing,
    songs,
    text,
)
from pipeline.demo_model.sound_data import varied
from pipeline.demo_model.spectra import EDGE_FRAMES, features, phasors
from pipeline.demo_model.teacher import SPECTRAL, Teacher, bottleneck_loss
from pipeline.demo_model.training import Draws, Losses, Schedule, State, fit
from pipeline.demo_model.training_folder import (
    Training,
    load_autoencoder,
    load_encoder,
    load_network,
    load_teacher,
    open_clips,
    read_latents,
)

CLIP_FRAMES, CLIPS_AT_ONCE = 32, 4
BEFORE_TRAINING = 10**9  # step number of draws that are made before the first step
TEACHER_RATE, AUTOENCODER_RATE, TURBO_RATE = 3e-3, 2e-3, 5e-4
LATENT_NOISE = 0.15  # the most that the decoder is trained with: latents that a network makes are not exact


def make_songs(training: Training) -> None:
    """Play the compositions that are not there yet; those held out first, since they are few.

    Raises:
        RenderingError: they cannot be played here.
    """
    plan = training.plan
    for split, seeds, seconds in (
        ("held_out", training.held_out_seeds, plan.held_out_s),
        ("train", training.seeds, plan.song_s),
    ):
        for done, _ in enumerate(songs.make(training.songs(split), seeds, seconds), start=1):
            training.report(f"songs {split}", done)


def train_teacher(training: Training) -> None:
    """Train the bottleneck on frames of random clips."""
    x, phase = _frames(training)
    module = Teacher()
    module.mean.copy_(x.mean(0))
    module.std.copy_(x.std(0).clamp_min(0.3))
    module.phase_std.copy_(phase.square().mean(0).sqrt().clamp_min(1e-3))
    adam = torch.optim.AdamW(module.parameters(), TEACHER_RATE, weight_decay=1e-4)
    schedule = Schedule(training.plan.teacher_steps, decay=0.9)

    def losses(draws: Draws) -> Losses:
        return bottleneck_loss(module, x[torch.randint(len(x), (1024,))])

    state = _fit(training, "teacher_training", module, [adam], schedule, losses)
    with torch.no_grad():
        code = module.narrow((x - module.mean) / module.std)
        module.code_mean.copy_(code.mean(0))
        module.code_std.copy_(code.std(0))
    state.save(training.state("teacher"))


def _frames(training: Training) -> tuple[Tensor, Tensor]:
    """Features ``[n, f]`` and phasors ``[m, 2 o]`` of frames of random clips, kept in a file."""
    file = training.root / "frames.safetensors"
    if not file.exists():
        clips, draw = open_clips(training), Draws.at(training.seed, BEFORE_TRAINING).numpy
        rounds = training.plan.teacher_clips // CLIPS_AT_ONCE
        found = [varied(clips.draw(draw, CLIPS_AT_ONCE, CLIP_FRAMES), draw) for _ in range(rounds)]
        x = torch.cat([features(clip)[:, EDGE_FRAMES:-EDGE_FRAMES].flatten(0, 1) for clip in found])
        phase = torch.cat([phasors(clip).flatten(0, 1) for clip in found])
        unfinished = file.with_suffix(".part")
        save_file({"features": x, "phasors": phase}, unfinished)
        unfinished.replace(file)
    kept = load_file(file)
    return kept["features"], kept["phasors"]


def train_encoder(training: Training) -> None:
    """Train the encoder: waveforms to the teacher's latents."""
    clips, teacher = open_clips(training), load_teacher(training)
    module = autoencoding.build(training.seed).encoder

    def losses(draws: Draws) -> Losses:
        audio = varied(clips.draw(draws.numpy, CLIPS_AT_ONCE, CLIP_FRAMES), draws.numpy)
        with torch.autocast("cpu", torch.bfloat16):
            found = autoencoding.encode(module, audio)
        return autoencoding.encoder_losses(found, teacher.latents(audio))

    _fit(training, "encoder", module, [_adam(module)], Schedule(training.plan.encoder_steps), losses)


def train_decoder(training: Training) -> None:
    """Train the decoder: the teacher's latents to waveforms."""
    clips, teacher = open_clips(training), load_teacher(training)
    module = autoencoding.build(training.seed).decoder

    def losses(draws: Draws) -> Losses:
        audio = clips.draw(draws.numpy, CLIPS_AT_ONCE, CLIP_FRAMES)
        return _decoded(module, teacher.latents(audio), torch.ones(len(audio)), audio, draws)

    _fit(training, "decoder", module, [_adam(module)], Schedule(training.plan.decoder_steps), losses)


def refine_decoder(training: Training) -> None:
    """Train the decoder further, on latents as it will get them.

    Half of them are what the trained encoder says; of half of them the phase is wrong more or less, as it is in
    latents that the network makes.
    """
    clips, teacher = open_clips(training), load_teacher(training)
    autoencoder = load_autoencoder(training, "decoder")
    encoder, module = autoencoder.encoder.requires_grad_(False), autoencoder.decoder

    def losses(draws: Draws) -> Losses:
        audio = clips.draw(draws.numpy, CLIPS_AT_ONCE, CLIP_FRAMES)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            heard = autoencoding.encode(encoder, audio)
        latents = torch.where(torch.rand(len(audio), 1, 1) < 0.5, heard, teacher.latents(audio))
        wrong = torch.where(torch.rand(len(audio)) < 0.5, 0.0, (1.5 * torch.rand(len(audio))).clamp_max(1))
        return _decoded(module, with_wrong_phase(latents, wrong), 1 - wrong, audio, draws)

    schedule = Schedule(training.plan.refined_decoder_steps, decay=0.9)
    _fit(training, "refined_decoder", module, [_adam(module)], schedule, losses)


def with_wrong_phase(latents: Tensor, wrong: Tensor) -> Tensor:
    """Latents ``[b, t, c]`` whose phase is random to the share ``wrong`` ``[b]``, of the same variance."""
    share, phase = wrong[:, None, None], latents[..., SPECTRAL:]
    mixed = (1 - share.square()).sqrt() * phase + share * torch.randn_like(phase)
    return torch.cat((latents[..., :SPECTRAL], mixed), dim=-1)


def _decoded(module: Decoder, latents: Tensor, phase_weight: Tensor, audio: Tensor, draws: Draws) -> Losses:
    noisy = latents + LATENT_NOISE * draws.numpy.random() * torch.randn_like(latents)
    with torch.autocast("cpu", torch.bfloat16):
        found = autoencoding.decode(module, noisy)
    return autoencoding.decoder_losses(found, audio, phase_weight)


def make_latents(training: Training) -> None:
    """Write the files that the network is trained on and checked with, and the vocabulary."""
    tokenizer = text.learn()
    tokenizer.save(str(training.tokenizer))
    teacher, encoder = load_teacher(training), load_encoder(training)
    for split, seeds in (("held_out", training.held_out_seeds), ("train", training.seeds)):
        if not training.latents(split).exists():
            folder, file = training.songs(split), training.latents(split)
            made = preparing.prepare(folder, seeds, teacher, encoder, tokenizer, file)
            for done, _ in enumerate(made, start=1):
                training.report(f"latents {split}", done)


def train_base(training: Training) -> None:
    """Train the network on latents."""
    data, held_out = read_latents(training, "train"), read_latents(training, "held_out")
    module = network.Network(data.vocabulary, training.seed).to(training.device)

    def losses(draws: Draws) -> Losses:
        batch = flow.draw_batch(data, draws.numpy, training.plan.batch, training.plan.frames)
        with torch.autocast(training.device.type, torch.bfloat16):
            return flow.losses(module, data, batch)

    def check() -> dict[str, float]:
        with torch.autocast(training.device.type, torch.bfloat16):
            return flow.held_out_losses(module, held_out, training.plan.batch, training.plan.frames)

    schedule = Schedule(training.plan.base_steps, clip=2.0)
    _fit(training, "base", module, network.optimisers(module), schedule, losses, check)


def distil_turbo(training: Training) -> None:
    """Distil the turbo model from the base one; what reads the source and the words stays as it is."""
    data = read_latents(training, "train")
    teacher, student = (load_network(training, "base").to(training.device) for _ in range(2))
    adam = torch.optim.AdamW(student.model.decoder.parameters(), TURBO_RATE, betas=(0.9, 0.98), weight_decay=0.0)

    def losses(draws: Draws) -> Losses:
        batch = flow.draw_batch(data, draws.numpy, training.plan.batch, training.plan.frames)
        with torch.autocast(training.device.type, torch.bfloat16):
            return distilling.losses(student, teacher, data, batch)

    _fit(training, "turbo", student, [adam], Schedule(training.plan.turbo_steps), losses)


def write_checkpoints(training: Training) -> None:
    """Export everything that is trained, in the published layout."""
    refined = training.state("refined_decoder").exists()
    autoencoder = load_autoencoder(training, "refined_decoder" if refined else "decoder")
    song = torch.from_numpy(np.load(songs.audio_file(training.songs("train"), training.seeds[0])))
    autoencoding.match_level(autoencoder, song.float() / 32768)
    export.write_autoencoder(training.checkpoints, autoencoder)
    silence = preparing.silence_latent(autoencoder.encoder)
    for variant in ("base", "turbo"):
        if training.state(variant).exists():
            module = load_network(training, variant)
            export.write_model(training.checkpoints, variant, module, silence)
    tokenizer = Tokenizer.from_file(str(training.tokenizer))
    export.write_text_encoder(training.checkpoints, load_network(training, "base"), tokenizer)


STAGES: dict[str, Callable[[Training], None]] = {
    "songs": make_songs,
    "teacher": train_teacher,
    "encoder": train_encoder,
    "decoder": train_decoder,
    "refined_decoder": refine_decoder,
    "latents": make_latents,
    "base": train_base,
    "turbo": distil_turbo,
    "export": write_checkpoints,
}


def _adam(module: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, AUTOENCODER_RATE, betas=(0.9, 0.98), weight_decay=0.0)


def _fit(
    training: Training,
    stage: str,
    module: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    schedule: Schedule,
    losses: Callable[[Draws], Losses],
    check: Callable[[], dict[str, float]] = dict,
) -> State:
    state, plan = State.fresh(module, optimisers), training.plan
    fit(
        state, training.state(stage), schedule, training.seed, losses, training.reporters, plan.save_every_s, check
    )
    return state
