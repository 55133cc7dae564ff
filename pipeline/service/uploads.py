"""Files that clients send, kept by the digest of their bytes, where workers find them."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.storage import Store, absolute

UPLOADS = "uploads"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Keep:
    """Where sent files are kept: ``uploads/<sha256>`` in the service's output folder.

    output: the folder as it was given, since workers open it by that name.
    """

    store: Store
    output: str

    def put(self, file: IO[bytes]) -> str:
        """Keep a file from its start, once whatever it is called, whole or not at all; its URI."""
        with tempfile.NamedTemporaryFile(dir=self._near(), delete=False) as copy:
            try:
                digest = _copied(file, copy)
                name = f"{UPLOADS}/{digest}"
                if not self.store.exists(name):
                    self._take(Path(copy.name), name)
            finally:
                Path(copy.name).unlink(missing_ok=True)
        return self.uri(name)

    def uri(self, name: str) -> str:
        """What ``pipeline.loading.load`` takes for a file of the output folder."""
        return absolute(name, f"{self.output.partition('?')[0].rstrip('/')}/_{_query(self.output)}")

    def _near(self) -> str | None:
        """A folder from which a rename is enough, where there is one."""
        if not self.store.is_local:
            return None
        self.store.filesystem.create_dir(self.store.path(UPLOADS), recursive=True)
        return self.store.path(UPLOADS)

    def _take(self, copy: Path, name: str) -> None:
        if self.store.is_local:
            os.chmod(copy, 0o644)
            os.replace(copy, self.store.path(name))
            return

        def put() -> None:
            # What breaks off in the middle is no object: the store shows it when the stream is closed.
            path = self.store.path(name)
            with copy.open("rb") as read, self.store.filesystem.open_output_stream(path) as stream:
                shutil.copyfileobj(read, stream, CHUNK_BYTES)

        self.store.retrying(put)


def _copied(file: IO[bytes], copy: IO[bytes]) -> str:
    """Copy all of a file; the digest of its bytes."""
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
