"""What covers take on a disk, measured or else at the most, against what is free."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from pipeline.planning.estimate import Estimate
from pipeline.storage.store import Store

# Bytes per second of audio that no cover exceeds: PCM as it is, mp3 at its constant 128 kbit/s, while the encoders
# of opus and aac may double theirs where the music is hard. Containers, and flac on noise, add a little.
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
    """Bytes that the covers to make take (``bound`` says how that is known), and those free (None: unknown)."""

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
    """The space that a forecast's covers take in a folder, which need not be there yet."""
    free = shutil.disk_usage(_nearest(Path(output.root))).free if output.is_local else None
    if forecast.gigabytes is not None:
        return DiskSpace(forecast.gigabytes * 1e9, "at the rate of covers made before", free)
    upper_bound = max_bytes(forecast.audio_hours * 3600, forecast.items, audio_format)
    return DiskSpace(upper_bound, f"an upper bound for {audio_format}", free)


def max_bytes(seconds: float, covers: int, audio_format: str) -> float:
    """What so many covers of together so many seconds take at the most."""
    return seconds * MAX_BYTES_PER_S[audio_format] * (1 + CONTAINER_SHARE) + covers * CONTAINER_BYTES


def _nearest(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
