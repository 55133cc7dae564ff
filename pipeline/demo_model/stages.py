"""The stages of training, in order; each starts from what the one before left on disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.demo_model import autoencoding, songs
from pipeline.demo_model.sound_data import Clips, varied
from pipeline.demo_model.spectra import EDGE_FRAMES, features, phasors
from pipeline.demo_model.teacher import SPECTRAL, Teacher, bottleneck_loss
from pipeline.demo_model.training import Draws, Losses, Schedule, State, averaged, fit

Tell = Callable[[str, int, Mapping[str, float]], None]
CLIP_FRAMES = 32
TEACHER_CLIPS = 2000
BEFORE = 10**9  # a step that is none: what is drawn before the first
TEACHER_RATE, RATE = 3e-3, 2e-3


@dataclass(frozen=True)
class Folder:
    """Where everything is."""

    root: Path

    def songs(self, split: str) -> Path:
        return self.root / "data" / split

    def checkpoint(self, stage: str) -> Path:
        return self.root / f"{stage}.safetensors"


def teacher(folder: Folder, seeds: list[int], schedule: Schedule, seed: int, tell: Tell) -> None:
    """Train the bottleneck on frames of random clips."""
    clips, draws = Clips(folder.songs("train"), seeds), Draws.at(seed, BEFORE)
    found = [varied(clips.draw(draws.numpy, 4, CLIP_FRAMES), draws.numpy) for _ in range(TEACHER_CLIPS // 4)]
    x = torch.cat([features(clip)[:, EDGE_FRAMES:-EDGE_FRAMES].flatten(0, 1) for clip in found])
    phase = torch.cat([phasors(clip).flatten(0, 1) for clip in found])
    module = Teacher()
    module.mean.copy_(x.mean(0))
    module.std.copy_(x.std(0).clamp_min(0.3))
    module.phase_std.copy_(phase.square().mean(0).sqrt())
    adam = torch.optim.AdamW(module.parameters(), TEACHER_RATE, weight_decay=1e-4)
    state = State.fresh(module, [adam])

    def losses(draws: Draws) -> Losses:
        return bottleneck_loss(module, x[torch.randint(len(x), (1024,))])

    fit(state, folder.checkpoint("teacher"), schedule, seed, losses, tell)
    with torch.no_grad():
        code = module.narrow((x - module.mean) / module.std)
        module.code_mean.copy_(code.mean(0))
        module.code_std.copy_(code.std(0))
    state.save(folder.checkpoint("teacher"))


def load_teacher(folder: Folder) -> Teacher:
    """The trained bottleneck."""
    module = Teacher()
    module.load_state_dict(averaged(folder.checkpoint("teacher")))
    return module.requires_grad_(False).eval()


def encoder(folder: Folder, seeds: list[int], schedule: Schedule, seed: int, tell: Tell) -> None:
    """Train the encoder: waveforms to the teacher's latents."""
    clips, taught = Clips(folder.songs("train"), seeds), load_teacher(folder)
    module = autoencoding.build(seed).encoder
    state = State.fresh(module, [_adam(module)])

    def losses(draws: Draws) -> Losses:
        audio = varied(clips.draw(draws.numpy, 4, CLIP_FRAMES), draws.numpy)
        wanted = taught.latents(audio)
        with torch.autocast("cpu", torch.bfloat16):
            found = autoencoding.encode(module, audio)
        return autoencoding.encoder_losses(found, wanted)

    fit(state, folder.checkpoint("encoder"), schedule, seed, losses, tell)


def decoder(folder: Folder, seeds: list[int], schedule: Schedule, seed: int, tell: Tell) -> None:
    """Train the decoder: the teacher's latents, a little noisy, to waveforms."""
    clips, taught = Clips(folder.songs("train"), seeds), load_teacher(folder)
    module = autoencoding.build(seed).decoder
    state = State.fresh(module, [_adam(module)])

    def losses(draws: Draws) -> Losses:
        audio = clips.draw(draws.numpy, 4, CLIP_FRAMES)
        latents = taught.latents(audio)
        latents = latents + 0.15 * draws.numpy.random() * torch.randn_like(latents)
        with torch.autocast("cpu", torch.bfloat16):
            found = autoencoding.decode(module, latents)
        return autoencoding.decoder_losses(found, audio)

    fit(state, folder.checkpoint("decoder"), schedule, seed, losses, tell)


def _adam(module: torch.nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, RATE, betas=(0.9, 0.98), weight_decay=0.0)
