"""Loudness-matched Opus previews of tracks, and waveform peaks.

Legend: n samples at 48 kHz.
"""

import io

import av
import numpy as np
import torch
import torchaudio.functional
from torch import Tensor

from acestep.audio.files import fade
from acestep.constants import SAMPLE_RATE
from acestep.errors import AudioError

SECONDS = 12.0
KBPS = 32
LOUDNESS_LUFS = -23.0  # EBU R 128: leaves 22 dB for peaks
PEAK = 10 ** (-1 / 20)
FADE_S = 0.02
GATE_SAMPLES = int(0.4 * SAMPLE_RATE)  # BS.1770 measures blocks of 0.4 s


def excerpt_start(track_s: float, seconds: float = SECONDS) -> float:
    """Start of the excerpt of a track, in s: a third into it, or 0 where less than ``seconds`` remain."""
    third = track_s / 3
    return third if track_s - third >= seconds else 0.0


def preview(wave: Tensor, start_s: float, seconds: float = SECONDS) -> bytes:
    """An Ogg Opus file, mono at 32 kbit/s, of ``seconds`` of ``[2, n]`` at -23 LUFS.

    Loudness is matched, since listeners prefer the louder of two takes. Gain is limited to a peak of -1 dBFS;
    silence stays silent.

    Raises:
        AudioError: the wave ends before the excerpt begins.
    """
    mono = _excerpt(wave, start_s, seconds)
    loudness_lufs = _loudness(mono)
    if np.isfinite(loudness_lufs):
        gain = 10 ** ((LOUDNESS_LUFS - loudness_lufs) / 20)
        mono = mono * min(gain, PEAK / float(mono.abs().max()))
    return _opus(fade(mono, FADE_S, FADE_S))


def peaks(wave: Tensor, start_s: float, seconds: float = SECONDS, points: int = 120) -> list[float]:
    """The outline of an excerpt of ``[2, n]``: the peak magnitude of each of ``points`` equal pieces.

    Normalized to a maximum of 1; all are 0 in silence and after the end of the wave.

    Raises:
        AudioError: the wave ends before the excerpt begins.
    """
    mono = _excerpt(wave, start_s, seconds).abs()[0]
    piece = max(1, round(seconds * SAMPLE_RATE / points))
    padded = torch.nn.functional.pad(mono, (0, max(0, piece * points - len(mono))))[: piece * points]
    outline = padded.view(points, piece).amax(dim=1)
    return [round(float(height), 2) for height in outline / outline.max().clamp(min=1e-6)]


def _excerpt(wave: Tensor, start_s: float, seconds: float) -> Tensor:
    """``[1, samples]``, the mean of both channels."""
    start = round(start_s * SAMPLE_RATE)
    if wave.shape[1] <= start:
        reason = f"lasts {wave.shape[1] / SAMPLE_RATE:.1f} s, and the excerpt begins at {start_s:.1f} s"
        raise AudioError("unreadable_audio", reason, "make it again")
    return wave[:, start : start + round(seconds * SAMPLE_RATE)].mean(dim=0, keepdim=True)


def _loudness(mono: Tensor) -> float:
    """LUFS of ``[1, n]`` by ITU-R BS.1770-4; NaN or -inf for silence."""
    padded = torch.nn.functional.pad(mono, (0, max(0, GATE_SAMPLES - mono.shape[1])))
    return float(torchaudio.functional.loudness(padded, SAMPLE_RATE))


def _opus(mono: Tensor) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ogg") as output:
        # Constrained, since the page budget is planned for a constant bit rate.
        stream = output.add_stream(
            "libopus", SAMPLE_RATE, {"vbr": "constrained"}, layout="mono", bit_rate=KBPS * 1000
        )
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(mono.numpy()), format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout="mono", rate=SAMPLE_RATE, frame_size=960
        )
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return buffer.getvalue()
