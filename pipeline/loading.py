"""Audio from wherever it lies: sources by their URI, covers by their place in an output folder."""

import io

from pyarrow import fs
from torch import Tensor

from acestep.audio import Sound, read_audio
from pipeline.storage import Store, locate, read_file


class UnavailableError(OSError):
    """A source cannot be read now, which says nothing of what it holds."""


def load(uri: str, most_seconds: float | None = None) -> Tensor:
    """The wave alone of ``read_source``."""
    return read_source(uri, most_seconds).wave


def read_source(uri: str, most_seconds: float | None = None) -> Sound:
    """A source at 48 kHz by its path or URI, in [-1, 1] as the model hears it.

    Raises:
        TooLongError: it is longer than ``most_seconds``.
        AudioError: it cannot be decoded.
        StorageError: the URI is not understood.
        UnavailableError: it cannot be read.
    """
    try:
        return _decoded(*locate(uri), most_seconds, clip=True)
    except OSError as error:
        raise UnavailableError(f"it cannot be read now ({error})") from error


def load_cover(output: Store, audio_path: str, most_seconds: float | None = None) -> Tensor:
    """A cover ``[2, n]`` at 48 kHz by the ``audio_path`` of its row: within the output folder, or anywhere by its
    own path. What goes beyond full scale stays, to be measured.

    Raises:
        See ``read_source``.
    """
    return _decoded(*_place(output, audio_path), most_seconds, clip=False).wave


def fetch_cover(output: Store, audio_path: str) -> bytes:
    """The file of a cover, as ``load_cover`` finds it."""
    return read_file(*_place(output, audio_path))


def _place(output: Store, audio_path: str) -> tuple[fs.FileSystem, str]:
    if "://" in audio_path or audio_path.startswith("/"):
        return locate(audio_path)
    return output.filesystem, output.path(audio_path)


def _decoded(filesystem: fs.FileSystem, path: str, most_seconds: float | None, clip: bool) -> Sound:
    if not isinstance(filesystem, fs.LocalFileSystem):
        return read_audio(io.BytesIO(read_file(filesystem, path)), most_seconds, clip)
    with open(path, "rb") as file:
        return read_audio(file, most_seconds, clip)
