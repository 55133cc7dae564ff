"""Rows of imaginary covers, and music to go with them."""

import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.metrics.registry import MEASURES
from tests.conftest import tone

RATE = 48_000
OUTCOMES = ("cover/outcome", "objective/kept", "objective/moved", "objective/score")


def cover(track: str, strength: float, guidance: float, seed: int = 0, **own: Any) -> dict[str, Any]:
    """A row: the song is kept more, and the sound moved less, as strength rises."""
    rng = np.random.default_rng(zlib.crc32(f"{track} {strength} {guidance} {seed}".encode()))
    kept = float(np.clip(0.15 + 0.8 * strength + rng.normal(0, 0.06), 0, 1))
    moved = float(np.clip(0.95 - 0.7 * strength**2 - 0.01 * abs(guidance - 7) + rng.normal(0, 0.04), 0, 1))
    name = f"s{strength:.2f} g{guidance:.1f}"
    measures = {measure.name: float(rng.uniform(0.1, 0.9)) for measure in MEASURES}
    measures |= {
        "harmony/chroma_excess": kept,
        "melody/salience_excess": kept * 0.9,
        "timbre/mfcc_distance": 14 * moved,
        "audio/lufs": -14 + float(rng.normal(0, 1)),
        "harmony/key_shift": 0,
        "audio/finite": True,
    }
    row = {
        "item_id": f"{track} {name} {seed}",
        "track_id": track,
        "setting_id": f"id of {name}",
        "setting_name": name,
        "seed": seed,
        "status": "ok",
        "error_kind": None,
        "error_message": None,
        "source": f"{track}.flac",
        "caption": f"heavy metal version of {track}, distorted guitars",
        "audio_path": f"audio/{track}/{name} {seed}.flac",
        "duration_s": 40.0,
        "audio_cover_strength": strength,
        "guidance_scale": guidance,
        "inference_steps": 50,
        "shift": 3.0,
        "t_switch": round(1 - strength, 2) or None,
        "cover_steps": int(50 * strength),
        **measures,
        "unmeasured": [],
        "cover/outcome": "ok",
        "objective/kept": kept,
        "objective/moved": moved,
        "objective/score": 2 * kept * moved / (kept + moved),
    }
    return row | own


def failed(row: dict[str, Any], message: str = "the decoded audio is not finite") -> dict[str, Any]:
    """The row of a cover that could not be made."""
    nulls = dict.fromkeys([measure.name for measure in MEASURES] + ["audio_path", "duration_s", *OUTCOMES[1:3]])
    told = {"status": "failed", "error_kind": "not_finite", "error_message": message, "cover/outcome": "failed"}
    return row | nulls | told | {"objective/score": 0.0}


def judged(row: dict[str, Any], outcome: str) -> dict[str, Any]:
    """The row of a cover that is a copy, or has lost the song."""
    return row | {"cover/outcome": outcome, "objective/score": 0.0}


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows)


def music(name: str, seconds: float = 40.0) -> Tensor:
    """Dense stereo ``[2, n]`` that no codec finds easy: arpeggios of several voices over a noisy beat."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    wave = sum(tone(seconds, pitch_hz=float(pitch)) for pitch in rng.uniform(80, 900, 5))
    beat = np.exp(-8 * (np.arange(len(wave)) * 2 / RATE % 1))[:, None]
    wave = 0.2 * wave + 0.15 * beat * rng.standard_normal(wave.shape) + 0.01 * rng.standard_normal(wave.shape)
    return torch.from_numpy(np.clip(wave, -1, 1).astype(np.float32)).T.contiguous()
