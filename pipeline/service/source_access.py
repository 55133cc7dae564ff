"""Source access: the files and URLs that a request may name, and their admission."""

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from acestep.error_kinds import KINDS
from pipeline.catalogue.probe import probe
from pipeline.catalogue.source_check import check_decoding, is_longer
from pipeline.service.config import Access, Limits
from pipeline.service.problem_details import ProblemError
from pipeline.service.safe_open import open_beneath
from pipeline.service.uploads import UnsavedUpload, UploadStore
from pipeline.service.url_fetch import PORTS, fetch
from pipeline.storage.read_timeout import DEFAULT_READ_TIMEOUT, ReadTimeout, Tick
from pipeline.storage.similar_files import FolderListings
from pipeline.storage.source_errors import SourceTimeoutError
from pipeline.storage.store import Store, locate

MAX_NAME_BYTES = 4096


@dataclass(frozen=True)
class AdmittedSource:
    """A checked source: its URI for workers, digest of its bytes, and duration if its header has one."""

    uri: str
    digest: str
    duration_s: float | None


@dataclass(frozen=True)
class ReadableFile:
    """A file that may be read. root: the local folder that contains it, with links resolved as in ``uri``; None in
    an object store, where existence was not checked."""

    uri: str
    root: str | None = None
    is_there: bool = True


def admit(field: str, value: str, access: Access, limits: Limits, uploads: UploadStore) -> AdmittedSource:
    """Admit a source that a client names by path or URL.

    Raises:
        ProblemError: 404 missing; 413 too large or too long; 415 not audio; 422 not allowed.
    """
    if is_address(value):
        with fetch(field, value, access.url_hosts, limits, uploads) as draft:
            return _saved(field, value, draft, limits)
    timeout = ReadTimeout(limits.source_timeout_s)
    found = find(field, value, access, uploads.store, timeout)
    with _held(field, value, found, timeout) as name:
        return _check_source(field, value, found.uri, limits, name)


def is_address(value: str) -> bool:
    """Whether a source is an http(s) URL."""
    scheme, mark, _ = value.partition("://")
    return bool(mark) and scheme.lower() in PORTS


def upload(field: str, file: BinaryIO, name: str, limits: Limits, uploads: UploadStore) -> AdmittedSource:
    """Admit an uploaded file; ``name`` is its name at the client.

    Raises:
        ProblemError: 413 too long; 415 not audio.
    """
    with uploads.draft(file) as draft:
        return _saved(field, name, draft, limits)


def _saved(field: str, said: str, draft: UnsavedUpload, limits: Limits) -> AdmittedSource:
    """Check an uploaded file and keep it."""
    source = _check_source(field, said, str(draft.path), limits)
    return replace(source, uri=draft.save())


def find(
    field: str, value: str, access: Access, output: Store, timeout: ReadTimeout = DEFAULT_READ_TIMEOUT
) -> ReadableFile:
    """The file that a client's path names: absolute, or relative to a root, after resolving symbolic links.

    Raises:
        ProblemError: 422 outside the roots or inside the service's output, even if missing; else 404; 503 a root
            does not answer, and no other root has the file.
    """
    allowed = [] if _is_odd(value) else _allowed(field, value, access, output, timeout)
    if not allowed:
        remedy = "send it as a file (multipart/form-data), or have its folder added to access.roots"
        raise ProblemError("not_allowed", "is not in a folder that this service reads", remedy, field, value)
    for found in allowed:
        if found.is_there:
            return found
    # The same name in another Unicode form; the result is checked like any other path.
    for other in FolderListings(timeout).actual([found.uri for found in allowed]).values():
        for found in _allowed(field, other, access, output, timeout):
            return found
    raise _missing(field, value)


def _allowed(field: str, value: str, access: Access, output: Store, timeout: ReadTimeout) -> list[ReadableFile]:
    """Resolve a path against each root; 503 where a root does not answer and no other root has the file."""
    allowed: list[ReadableFile] = []
    hung: SourceTimeoutError | None = None
    for root in access.roots:
        try:
            # An absolute path may be outside this root, on storage that hangs.
            looked_at = root if "://" in root else os.path.join(root, value)
            found = timeout.run(looked_at, partial(_inside, root, value))
        except SourceTimeoutError as error:
            hung = error
            continue
        if found is not None and not _is_ours(found.uri, output):
            allowed.append(found)
    if hung is not None and not any(found.is_there for found in allowed):
        raise _refused(field, value, value, hung.kind, str(hung))
    return allowed


@contextmanager
def _held(field: str, value: str, found: ReadableFile, timeout: ReadTimeout) -> Iterator[str]:
    """Hold a file open; yields a path that stays valid for the block even if the file is renamed.

    Refuses files that are gone (404), files that cannot be opened or are behind a link now (422), and roots
    that do not answer (503).
    """
    root = found.root
    if root is None:
        yield found.uri
        return
    try:
        file = timeout.run(found.uri, lambda tick: open_beneath(root, found.uri))
    except FileNotFoundError:
        raise _missing(field, value) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise _refused(field, value, found.uri, "unreadable_file", reason) from None
    except SourceTimeoutError as error:
        raise _refused(field, value, found.uri, error.kind, str(error)) from None
    with file:
        yield f"/dev/fd/{file.fileno()}"


def _check_source(field: str, said: str, uri: str, limits: Limits, name: str | None = None) -> AdmittedSource:
    """Check that a file is audio of an accepted length, from its header and its beginning.

    Args:
        name: the path to read, if other than the URI.
    """
    name, timeout = name or uri, ReadTimeout(limits.source_timeout_s)
    found = probe(name, timeout=timeout)
    if found.error_kind == "missing_file":
        raise _missing(field, said)
    if found.error_kind is not None:
        raise _refused(field, said, name, found.error_kind, found.error or "")
    if is_longer(found, limits.source_seconds):
        longer = f"{found.duration_s:.1f} s is longer than {limits.source_seconds:g} s"
        raise _refused(field, said, name, "too_long", longer)
    # Without a length in the header, decode up to the limit.
    defect = check_decoding(name, found.duration_s is None, limits.source_seconds, timeout).defect
    if defect is not None:
        raise _refused(field, said, name, *defect)
    return AdmittedSource(uri, found.digest, found.duration_s)


def _refused(field: str, said: str, uri: str, kind: str, message: str) -> ProblemError:
    reason = message.replace(f"{uri}: ", "").replace(uri, "it")
    later = 30 if KINDS[kind].status == 503 else None
    return ProblemError(kind, f"cannot be used: {reason}", "", field, said, retry_after_s=later)


def _missing(field: str, value: str) -> ProblemError:
    return ProblemError("missing_file", "is no file", field=field, value=value)


def _is_odd(value: str) -> bool:
    """Whether a value cannot be a regular path."""
    try:
        return not value or "\0" in value or len(value.encode()) > MAX_NAME_BYTES
    except UnicodeEncodeError:
        return True


def _inside(root: str, value: str, tick: Tick) -> ReadableFile | None:
    """Resolve a path against a root; None outside of it."""
    if "://" in root and not root.startswith("file://"):
        uri = _inside_uri(root, value)
        return ReadableFile(uri) if uri is not None else None
    if "://" in value:
        return None
    real_root = os.path.realpath(locate(root)[1])
    try:
        real = os.path.realpath(os.path.join(real_root, value))
    except (OSError, ValueError):
        return None
    if not real.startswith(real_root.rstrip("/") + "/"):
        return None
    return ReadableFile(real, real_root, os.path.lexists(real))


def _inside_uri(root: str, value: str) -> str | None:
    """Resolve a name in an object store, lexically, since it has no links; with the root's URI options."""
    start, mark, options = root.partition("?")
    start = start.rstrip("/")
    if "://" in value:
        given, base = urlsplit(value), urlsplit(start)
        if (given.scheme, given.netloc) != (base.scheme, base.netloc) or given.query or given.fragment:
            return None
        if not given.path.startswith(f"{base.path}/"):
            return None
        value = given.path[len(base.path) + 1 :]
    plain = unquote(value)
    if value.startswith("/") or plain.startswith(("/", "..")) or posixpath.normpath(plain) != plain:
        return None
    return f"{start}/{value}{mark}{options}"


def _is_ours(path: str, output: Store) -> bool:
    """Whether a file is in the service's output, which holds other requests' uploads and results."""
    filesystem, place = locate(path)
    if output.is_local:
        return "://" not in path and f"{place}/".startswith(f"{os.path.realpath(output.root)}/")
    return filesystem == output.filesystem and f"{place}/".startswith(f"{output.root}/")
