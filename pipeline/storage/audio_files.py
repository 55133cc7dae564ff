"""Read audio: sources by URI, covers by their path inside an output folder."""

from pyarrow import fs
from torch import Tensor

from acestep.audio.files import DecodedAudio, read_audio
from acestep.audio.regular_files import NotAFileError
from acestep.errors import AudioError
from pipeline.storage.read_timeout import DEFAULT_READ_TIMEOUT, ReadTimeout
from pipeline.storage.source_copy import SourceCopy, copy_in_reader, copy_source
from pipeline.storage.source_errors import SourceChangedError, SourceUnavailableError
from pipeline.storage.store import Store, locate, read_file


def load(uri: str, max_seconds: float | None = None, timeout: ReadTimeout = DEFAULT_READ_TIMEOUT) -> Tensor:
    """The waveform ``[2, n]`` of ``read_source``, without its notes."""
    return read_source(uri, max_seconds, timeout).wave


def read_source(
    uri: str, max_seconds: float | None = None, timeout: ReadTimeout = DEFAULT_READ_TIMEOUT
) -> DecodedAudio:
    """Read a source by path or URI at 48 kHz, clipped to [-1, 1].

    Raises:
        TooLongError: the source is longer than ``max_seconds``.
        AudioError: it cannot be decoded.
        SourceUnavailableError: the filesystem failed.
        SourceTimeoutError: the read made no progress.
        NotAFileError, StorageError: it cannot be read.
    """
    try:
        return _decoded(copy_source(uri, timeout), max_seconds, clip=True)
    except OSError as error:
        raise SourceUnavailableError("source_unavailable", f"it cannot be read now ({error})") from error


def read_planned(uri: str, digest: str, timeout: ReadTimeout) -> SourceCopy:
    """Read a source and verify the digest that it was planned with.

    Raises:
        SourceChangedError: the content differs, or the file is gone.
        SourceUnavailableError: the filesystem failed.
        SourceTimeoutError, ReadStoppedError: see ``ReadTimeout.run``.
    """
    try:
        copy = copy_source(uri, timeout)
    except (FileNotFoundError, NotADirectoryError) as error:
        reason = "it was there when it was planned, and is gone"
        raise SourceChangedError("source_changed", reason, "put it back") from error
    except (NotAFileError, AudioError) as error:
        raise SourceChangedError("source_changed", f"it has changed since it was planned: {error}") from error
    except OSError as error:
        raise SourceUnavailableError(
            "source_unavailable", f"it was readable when it was planned, and is not now ({error})"
        ) from error
    if copy.digest != digest:
        remedy = "the next launch plans it as it is then"
        raise SourceChangedError("source_changed", "its content has changed since it was planned", remedy)
    return copy


def load_cover(
    output: Store, audio_path: str, max_seconds: float | None = None, timeout: ReadTimeout = DEFAULT_READ_TIMEOUT
) -> Tensor:
    """Read the cover ``[2, n]`` at 48 kHz of a result row's ``audio_path``, not clipped.

    A relative path is relative to the output folder; external covers have an absolute path or URI.

    Raises:
        See ``read_source``.
    """
    filesystem, path = _place(output, audio_path)
    copy = timeout.run(path, lambda tick: copy_in_reader(filesystem, path, tick))
    return _decoded(copy, max_seconds, clip=False).wave


def fetch_cover(output: Store, audio_path: str) -> bytes:
    """The encoded file of a cover; ``audio_path`` as in ``load_cover``."""
    return read_file(*_place(output, audio_path))


def _place(output: Store, audio_path: str) -> tuple[fs.FileSystem, str]:
    if "://" in audio_path or audio_path.startswith("/"):
        return locate(audio_path)
    return output.filesystem, output.path(audio_path)


def _decoded(copy: SourceCopy, max_seconds: float | None, clip: bool) -> DecodedAudio:
    with copy.file as file:
        return read_audio(file, max_seconds, clip)
