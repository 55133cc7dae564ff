"""Damaged Parquet parts of an output folder: detection, and repair on request.

A repairing launch restores the rows of a damaged part from receipts or from audio files that are verified to be
whole; it makes the other covers again and overwrites their files.
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
from pipeline.results.reader import REJECTED, RESULTS, ROWS
from pipeline.results.writer import file_columns
from pipeline.storage.parquet_parts import PartError, find_faults, set_aside
from pipeline.storage.store import Store

MAX_NAMED = 5
FOUND = "found by its audio file after its row was lost; how long it took to make is not known"
_STREAM_INFO = b"fLaC\x00\x00\x00\x22"  # FLAC marker and the header of the STREAMINFO block
_MD5 = slice(26, 42)
_UNKNOWN_MD5 = bytes(16)


class DamageError(RequestError):
    """An output folder holds files that cannot be read as parts; ``faults`` lists them."""

    def __init__(self, faults: Sequence[PartError]):
        named = "\n".join(map(str, faults[:MAX_NAMED]))
        more = len(faults) - MAX_NAMED
        super().__init__("damaged_file", f"{named}\nand {more} more" if more > 0 else named)
        self.faults = faults


def check_parts(output: Store, repair: bool = False, say: Callable[[str], None] = lambda text: None) -> None:
    """Check that every part of an output folder can be read.

    Args:
        repair: move damaged parts aside, and report each to ``say``.

    Raises:
        DamageError: naming the parts that cannot be read.
    """
    faults = [fault for folder in (RESULTS, REJECTED) for fault in find_faults(output, folder, ROWS)]
    if repair:
        for fault in faults:
            if fault.is_damaged:
                aside = set_aside(output, fault.name)
                say(f"{output.path(fault.name)} is damaged ({fault.cause}) and was moved to {aside}")
        faults = [fault for fault in faults if not fault.is_damaged]
    if faults:
        raise DamageError(faults)


def find_cover(output: Store, track_id: str, item_id: str) -> tuple[dict[str, Any], Tensor] | None:
    """Result columns and wave ``[2, n]`` (at the file's rate) of an existing cover whose row is lost.

    None without a file that is verified to be whole; of the output formats only FLAC has a digest of its samples.
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
    """Wave ``[c, n]`` and rate of a 16-bit FLAC file; None where the MD5 in its header does not match."""
    if not content.startswith(_STREAM_INFO) or content[_MD5] == _UNKNOWN_MD5:
        return None
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="int16", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError):
        return None
    if hashlib.md5(samples.astype("<i2").tobytes(), usedforsecurity=False).digest() != content[_MD5]:
        return None
    return torch.from_numpy(samples.T.astype(np.float32) / 32768), rate
