"""Disk space for the covers to make, measured or bounded from above, against the space that is free."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from pipeline.planning.estimate import Estimate
from pipeline.storage.store import Store

# Upper bounds in bytes per second of audio: PCM for wav and flac, a constant 128 kbit/s for mp3, twice the nominal
# rate for opus and aac, whose encoders may double it. Containers, and flac of noise, add a little.
MAX_BYTES_PER_S = {
    "wav": 192_000,
    "flac": 192_000,
    "mp3": 16_000,
    "opus": 32_000,
    "aac": 32_000,
    "wav32": 384_000,
}
CONTAINER_SHARE, CONTAINER_BYTES = 0.01, 16_384


@dataclass(frozen=True)
class DiskSpace:
    """Bytes needed for the covers to make (``bound`` names the source of the figure), and bytes free or None."""

    needed: float
    bound: str
    free: int | None

    @property
    def is_short(self) -> bool:
        return self.free is not None and self.free < self.needed

    def __str__(self) -> str:
        free = "what is free there cannot be asked" if self.free is None else f"{decimal(self.free)} free"
        return f"{decimal(int(self.needed))} needed ({self.bound}), {free}"


def space_for(forecast: Estimate, audio_format: str, output: Store) -> DiskSpace:
    """Disk space for the covers of an estimate in an output folder, which may not exist yet."""
    free = shutil.disk_usage(_nearest(Path(output.root))).free if output.is_local else None
    if forecast.gigabytes is not None:
        return DiskSpace(forecast.gigabytes * 1e9, "at the rate of covers made before", free)
    upper_bound = max_bytes(forecast.audio_hours * 3600, forecast.items, audio_format)
    return DiskSpace(upper_bound, f"an upper bound for {audio_format}", free)


def max_bytes(seconds: float, covers: int, audio_format: str) -> float:
    """Upper bound in bytes for ``covers`` covers of ``seconds`` seconds in total."""
    return seconds * MAX_BYTES_PER_S[audio_format] * (1 + CONTAINER_SHARE) + covers * CONTAINER_BYTES


def _nearest(folder: Path) -> Path:
    """The folder itself, or its nearest existing parent."""
    return next(path for path in (folder, *folder.parents) if path.exists())
