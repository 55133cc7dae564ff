"""Output folders with damaged parts: named before anything starts, and mended on request.

Rows of a damaged part come back with the launch that asks for them: from receipts, from audio files that prove to
be whole, else by making the cover again over the old file.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from acestep.errors import RequestError
from pipeline.results.table import REJECTED, RESULTS, ROWS, file_columns
from pipeline.storage.parquet_parts import PartError, find_faults, set_aside
from pipeline.storage.store import Store

MAX_NAMED = 5
FOUND = "found by its audio file after its row was lost; how long it took to make is not known"
_STREAM_INFO = b"fLaC\x00\x00\x00\x22"  # the mark of a FLAC file, and the header of the block that follows it
_MD5 = slice(26, 42)
_UNKNOWN_MD5 = bytes(16)


class DamageError(RequestError):
    """An output folder holds files that cannot be read as its parts; ``faults`` says what each is."""

    def __init__(self, faults: Sequence[PartError]):
        named = "\n".join(map(str, faults[:MAX_NAMED]))
        more = len(faults) - MAX_NAMED
        super().__init__(f"{named}\nand {more} more" if more > 0 else named)
        self.faults = faults


def check_parts(output: Store, repair: bool = False, say: Callable[[str], None] = lambda text: None) -> None:
    """See that every part of an output folder can be read.

    Args:
        repair: move damaged ones out of the way, each told to ``say``.

    Raises:
        DamageError: naming those that cannot be read.
    """
    faults = [fault for folder in (RESULTS, REJECTED) for fault in find_faults(output, folder, ROWS)]
    if repair:
        for fault in faults:
            if fault.is_damaged:
                aside = set_aside(output, fault.name)
                say(f"{output.path(fault.name)} is damaged ({fault.reason}) and was moved to {aside}")
        faults = [fault for fault in faults if not fault.is_damaged]
    if faults:
        raise DamageError(faults)


def find_cover(output: Store, track_id: str, item_id: str) -> tuple[dict[str, Any], Tensor] | None:
    """A cover by its file: the result columns that it tells, and its wave ``[2, n]`` at its own rate.

    None where there is no such file, or none that proves to be whole: of the formats that covers are written in,
    FLAC alone has a digest of its samples.
    """
    path = f"audio/{track_id}/{item_id}.flac"
    try:
        content = output.read(path)
    except FileNotFoundError:
        return None
    found = decode_verified_flac(content)
    if found is None:
        return None
    wave, rate = found
    return file_columns(path, content, wave.shape[1], rate), wave


def decode_verified_flac(content: bytes) -> tuple[Tensor, int] | None:
    """Wave ``[c, n]`` and rate of a 16-bit FLAC file; None where its samples do not have the MD5 in its header."""
    if not content.startswith(_STREAM_INFO) or content[_MD5] == _UNKNOWN_MD5:
        return None
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="int16", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError):
        return None
    if hashlib.md5(samples.astype("<i2").tobytes(), usedforsecurity=False).digest() != content[_MD5]:
        return None
    return torch.from_numpy(samples.T.astype(np.float32) / 32768), rate
