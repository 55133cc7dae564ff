"""Flow matching on pairs: the velocity from noise to a song in one genre, given the codes of it in another.

Legend: b batch, t latent frames, w = t / 5 windows, c latent channels, n songs, g genres.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from pipeline.demo_model.network import CODE_HEAD, LEVELS, MELODY_CLASSES, MELODY_LOWEST, ONSET_DIMENSION, Network
from pipeline.demo_model.rendering import ROLL_WIDTH
from pipeline.demo_model.teacher import SPECTRAL
from pipeline.demo_model.training import Draws, Losses

LATENT_STEP = 1 / 32  # latents are kept in 8 bits
TEXT_TO_MUSIC, RAW_LATENTS, SAME_GENRE, NO_CONDITION = 0.18, 0.12, 0.1, 0.12  # shares of a batch
PHASE_WEIGHT = 0.3  # phases are hardly predictable, and their error says little
ONSET_WEIGHT = 10.0
WINDOW = 5
SOURCE_NOISE = 0.25
HELD_OUT_SEED = 12_345


@dataclass(frozen=True)
class Latents:
    """The prepared data on one device.

    sources, targets: ``[n, g, t, c]`` in 8 bits. rolls: ``[n, g, t, bytes]``. plans: ``[n, t, 4]``.
    prompts: token ids ``[n, g, 2, variants, s]``, padded with -1; of covers, then of songs from text alone.
    """

    sources: Tensor
    targets: Tensor
    rolls: Tensor
    plans: Tensor
    prompts: Tensor
    lyrics: Tensor
    silence: Tensor
    vocabulary: int

    @classmethod
    def read(cls, file: Path, device: torch.device) -> "Latents":
        with safe_open(file, "pt", device=str(device)) as opened:
            facts = json.loads(opened.metadata()["facts"])
            return cls(**{name: opened.get_tensor(name) for name in opened.keys()}, vocabulary=facts["vocabulary"])  # noqa: SIM118


@dataclass(frozen=True)
class Batch:
    """Sources and targets ``[b, t, c]``; kind ``[b]``: 0 codes, 1 latents, 2 silence; ids ``[b, s]``."""

    source: Tensor
    target: Tensor
    roll: Tensor
    plan: Tensor
    kind: Tensor
    ids: Tensor
    lengths: Tensor


def draw_batch(data: Latents, draw: np.random.Generator, count: int, frames: int) -> Batch:
    """Random songs, pairs of genres, places and tasks."""
    songs, genres, length, _ = data.sources.shape
    device = data.sources.device
    song = draw.integers(songs, size=count)
    to = draw.integers(genres, size=count)
    come = np.where(draw.random(count) < SAME_GENRE, to, draw.integers(genres, size=count))
    start = draw.integers(0, length - frames + 1, size=count)
    u = draw.random(count)
    kind = np.where(u < TEXT_TO_MUSIC, 2, np.where(u < TEXT_TO_MUSIC + RAW_LATENTS, 1, 0))
    variant = draw.integers(data.prompts.shape[3], size=count)
    i, a, b, k, v = (torch.from_numpy(x).to(device) for x in (song, come, to, kind, variant))
    at = torch.from_numpy(start).to(device)[:, None] + torch.arange(frames, device=device)
    source = data.sources[i[:, None], a[:, None], at].float() * LATENT_STEP
    bits = data.rolls[i[:, None], b[:, None], at]
    roll = (bits[..., None] >> torch.arange(7, -1, -1, device=device, dtype=torch.uint8)) & 1
    ids = data.prompts[i, b, (k == 2).long(), v].long()
    lengths = (ids >= 0).sum(1)
    return Batch(
        source + SOURCE_NOISE * torch.rand(count, 1, 1, device=device) * torch.randn_like(source),
        data.targets[i[:, None], b[:, None], at].float() * LATENT_STEP,
        roll.flatten(-2)[..., :ROLL_WIDTH],
        data.plans[i[:, None], at].float(),
        k,
        ids[:, : int(lengths.max())].clamp_min(0),
        lengths,
    )


def flow_times(count: int, device: torch.device) -> Tensor:
    """Flow times ``[count]``, uniform and with shift 3, half of each."""
    u = torch.rand(count, device=device)
    shift = torch.where(torch.rand(count, device=device) < 0.5, 3.0, 1.0)
    return shift * u / (1 + (shift - 1) * u)


def context_of(network: Network, data: Latents, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What the decoder reads of the source ``[b, t, c]``, by kind; code vectors ``[b, w, h]``; codes."""
    vectors, codes = network.quantised(batch.source)
    hints = network.model.detokenizer(vectors).float()
    silence = data.silence[: batch.source.shape[1]].expand_as(batch.source)
    kind = batch.kind[:, None, None]
    return torch.where(kind == 0, hints, torch.where(kind == 1, batch.source, silence)), vectors, codes


def losses(network: Network, data: Latents, batch: Batch) -> Losses:
    """The flow-matching loss, and what the codes and the middle layer are asked about the music."""
    count, device = len(batch.source), batch.source.device
    context, vectors, codes = context_of(network, data, batch)
    conditions, real = network.conditions(batch.ids, batch.lengths, data.lyrics, data.silence)
    dropped = torch.rand(count, device=device) < NO_CONDITION
    conditions = torch.where(dropped[:, None, None], network.model.null_condition_emb.to(conditions), conditions)
    t, noise = flow_times(count, device), torch.randn_like(batch.target)
    x = t[:, None, None] * noise + (1 - t[:, None, None]) * batch.target
    found, middle = network.velocity(x, context, t, conditions, real)
    error = (found - (noise - batch.target)).square().mean(1)
    spectral, phase = error[:, :SPECTRAL].mean(1), error[:, SPECTRAL:].mean(1)
    parts = {"flow": spectral.mean(), "phase": phase.mean(), "cover": spectral[batch.kind == 0].mean()}
    parts |= {"raw": spectral[batch.kind == 1].mean(), "text": spectral[batch.kind == 2].mean()}
    told = _told_by_codes(network.code_head(vectors).float(), codes, batch.plan)
    sounding = batch.roll.float().unflatten(1, (-1, 2)).amax(2)
    heard = F.binary_cross_entropy_with_logits(network.middle_head(middle).float(), sounding, reduction="none")
    parts |= told | {"middle": (heard * (1 - 0.5 * t)[:, None, None]).sum(-1).mean() / 10}
    asked = told["root"] + 0.5 * told["quality"] + told["melody"] + ONSET_WEIGHT * told["onsets"]
    return parts["flow"] + PHASE_WEIGHT * parts["phase"] + 0.3 * (asked + parts["middle"]), parts


def _told_by_codes(answers: Tensor, codes: Tensor, plan: Tensor) -> dict[str, Tensor]:
    """Losses of what each code says: chord and melody by a head ``[b, w, answers]``, onsets by one dimension.

    A head that is asked for onsets is ignored: the six dimensions are filled with pitch first, and what is learned
    later finds no room. So one dimension is theirs from the start.
    """
    by_window = plan.unflatten(1, (-1, WINDOW))
    centre = by_window[:, :, WINDOW // 2]
    root, quality, melody = answers.split(list(CODE_HEAD.values()), dim=-1)
    pitch = (centre[..., 0].long() - MELODY_LOWEST).clamp(0, MELODY_CLASSES - 1)
    chosen = lambda logits, wanted: F.cross_entropy(logits.flatten(0, 1), wanted.long().flatten())  # noqa: E731
    return {
        "root": chosen(root, centre[..., 2]),
        "quality": chosen(quality, centre[..., 3]),
        "melody": chosen(melody, pitch),
        "onsets": F.huber_loss(codes[..., ONSET_DIMENSION], onset_level(by_window[..., 1]), delta=0.5),
    }


def onset_level(starts: Tensor) -> Tensor:
    """The value in -1..1 of a code dimension of 8 levels: the lowest is no onset, 2 to 6 the frame of the first.

    ``starts`` ``[b, w, 5]`` is 1 where a melody note starts.
    """
    level = torch.where(starts.amax(-1) > 0, starts.argmax(-1) + 2, 0)
    return 2 * level / (LEVELS[ONSET_DIMENSION] - 1) - 1


def held_out_losses(network: Network, data: Latents, count: int, frames: int) -> dict[str, float]:
    """What ``losses`` tells of songs that were not trained on, always of the same draws."""
    with torch.random.fork_rng():
        draws = Draws.at(HELD_OUT_SEED, 0)
        _, parts = losses(network, data, draw_batch(data, draws.numpy, count, frames))
    kept = ("cover", "raw", "text", "melody", "onsets")
    return {f"held_out_{name}": float(parts[name].detach()) for name in kept}
