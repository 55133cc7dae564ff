"""Pictures of a trained model: spectrograms of one song's covers, and losses along the steps."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.demo_model.spectra import mid
from pipeline.report.plotting import figure, png, tidy

WINDOW, HOP = 4096, 960
HIGHEST_HZ = 6000
FLOOR_DB = -70.0
SHOWN = {
    "decoder": ("notes", "stft4096"),
    "refined_decoder": ("notes", "stft4096"),
    "base": ("flow", "held_out_cover", "melody"),
    "turbo": ("spectral",),
}


def spectrogram_db(wave: Tensor) -> Tensor:
    """``[2, s]`` -> decibels below the loudest bin ``[bins, frames]``, up to ``HIGHEST_HZ``."""
    pieces = mid(wave[None])[0].unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW)
    power = torch.fft.rfft(pieces)[:, : HIGHEST_HZ * WINDOW // 48_000].abs().square().T
    return (10 * torch.log10(power / power.max().clamp_min(1e-12) + 1e-12)).clamp_min(FLOOR_DB)


def draw_spectrograms(waves: Mapping[str, Tensor], file: Path) -> None:
    """One panel for each wave ``[2, s]`` at 48 kHz, by its title, one above the other."""
    drawn = figure(9, 1.5 * len(waves) + 0.6)
    panels = drawn.subplots(len(waves), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (title, wave) in zip(panels, waves.items(), strict=True):
        image, seconds = spectrogram_db(wave).numpy(), wave.shape[-1] / 48_000
        panel.imshow(image, origin="lower", aspect="auto", extent=(0, seconds, 0, HIGHEST_HZ / 1000), cmap="magma")
        panel.set_title(title, loc="left", fontsize=9)
        panel.set_ylabel("kHz")
    panels[-1].set_xlabel("seconds")
    file.write_bytes(png(drawn))


def draw_losses(losses: Path, file: Path) -> None:
    """Losses of each stage along its steps, from the lines of ``losses.jsonl``."""
    rows = [json.loads(line) for line in losses.read_text().splitlines()]
    stages = [stage for stage in SHOWN if any(row["stage"] == stage for row in rows)]
    drawn = figure(3.2 * max(len(stages), 1), 3)
    panels = drawn.subplots(1, max(len(stages), 1), squeeze=False)[0]
    for panel, stage in zip(panels, stages, strict=False):
        for name in SHOWN[stage]:
            by_step = {row["step"]: row[name] for row in rows if row["stage"] == stage and name in row}
            steps = np.array(sorted(by_step))
            panel.plot(steps, [by_step[step] for step in steps], label=name)
        panel.set_title(stage, loc="left", fontsize=9)
        panel.set_xlabel("step")
        panel.legend(frameon=False, fontsize=7)
        tidy(panel)
    file.write_bytes(png(drawn))
