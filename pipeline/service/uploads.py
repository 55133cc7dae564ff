"""Uploads: checked first, then kept under the SHA-256 of their bytes, where workers find them."""

import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pipeline.service.disk_quota import DiskQuota
from pipeline.service.problem_details import ProblemError
from pipeline.service.scratch import scratch_folder
from pipeline.storage.store import Store, absolute

UPLOADS = "uploads"
CHUNK_BYTES = 1 << 20


class RequestUploads:
    """The uploads of one request: held until it ends, and removed if it is refused."""

    def __init__(self, quota: DiskQuota):
        self.quota = quota
        self.held: list[str] = []
        self.new: list[str] = []
        self.over = False
        self.lock = threading.Lock()

    def hold(self, name: str) -> None:
        """Hold an upload before it is kept.

        Raises:
            ProblemError: 409 the request has ended.
        """
        with self.lock:
            if self.over:
                raise ProblemError("cancelled", "the client has left")
            self.quota.hold(name)
            self.held.append(name)

    def saved(self, name: str) -> None:
        """Record a new upload, to be removed if the request is refused."""
        with self.lock:
            self.new.append(name)
            if self.over:
                self.quota.discard(name)

    def end(self, refused: bool) -> None:
        """Release all uploads, and remove new ones of a refused request."""
        with self.lock:
            self.over = True
            self.quota.release(*self.held)
            for name in self.new if refused else ():
                self.quota.discard(name)


@dataclass(frozen=True)
class UploadStore:
    """Kept uploads: ``uploads/<sha256>`` in the service's output folder.

    output: the folder's URI as given, by which workers open it.
    request_uploads: the uploads of the current request.
    """

    store: Store
    output: str
    quota: DiskQuota = field(default_factory=DiskQuota)
    request_uploads: RequestUploads | None = None

    def is_damaged(self, name: str, digest: str) -> bool:
        """Whether the bytes of a local file do not match the digest in its name."""
        if not self.store.is_local:
            return False
        with open(self.store.path(name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != digest

    @contextmanager
    def draft(self, file: IO[bytes]) -> Iterator["UnsavedUpload"]:
        """A temporary copy of a file, removed after the block unless it was saved."""
        path = scratch_folder(self.store) / uuid.uuid4().hex
        try:
            with path.open("xb") as copy:
                digest = _copied(file, copy)
            yield UnsavedUpload(self, path, digest)
        finally:
            path.unlink(missing_ok=True)

    def uri(self, name: str) -> str:
        """The URI of a file in the output folder, as ``pipeline.storage.audio_files.load`` takes it."""
        return absolute(name, f"{self.output.partition('?')[0].rstrip('/')}/_{_query(self.output)}")

    def take(self, path: Path, name: str) -> None:
        """Move a local file into the output folder."""
        if self.store.is_local:
            final = Path(self.store.path(name))
            final.parent.mkdir(parents=True, exist_ok=True)
            os.chmod(path, 0o644)
            os.replace(path, final)
            return

        def put() -> None:
            # An interrupted upload leaves no object: it appears when the stream is closed.
            final = self.store.path(name)
            with path.open("rb") as read, self.store.filesystem.open_output_stream(final) as stream:
                shutil.copyfileobj(read, stream, CHUNK_BYTES)

        self.store.retrying(put)


@dataclass(frozen=True)
class UnsavedUpload:
    """An upload that is not kept yet: its local path, and the digest of its bytes."""

    uploads: UploadStore
    path: Path
    digest: str

    def save(self) -> str:
        """Keep the file, atomically and once per content; returns its URI.

        Raises:
            ProblemError: 507 no room for it.
        """
        uploads, name = self.uploads, f"{UPLOADS}/{self.digest}"
        request_uploads = uploads.request_uploads or RequestUploads(uploads.quota)
        request_uploads.hold(name)
        try:
            uploads.quota.wait_for_removals(name)
            size, is_new = self.path.stat().st_size, not uploads.store.exists(name)
            if is_new:
                uploads.quota.look()
                uploads.quota.demand(size)
                uploads.take(self.path, name)
            elif uploads.is_damaged(name, self.digest):
                uploads.take(self.path, name)
            uploads.quota.add(name, size)
            if is_new:
                request_uploads.saved(name)
        finally:
            if uploads.request_uploads is None:
                request_uploads.end(refused=False)
        return uploads.uri(name)


def _copied(file: IO[bytes], copy: IO[bytes]) -> str:
    """Copy a file from its start; returns the SHA-256 of its bytes."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        copy.write(chunk)
    copy.flush()
    return digest.hexdigest()


def _query(uri: str) -> str:
    _, mark, query = uri.partition("?") if "://" in uri else ("", "", "")
    return mark + query
