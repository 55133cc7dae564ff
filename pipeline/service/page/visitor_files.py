"""Files of the page's visitors: uploads and copies of shown covers, limited in age and size.

Gradio uses one folder per process and deletes by age only, so the service manages the folder itself.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.service.problem_details import short_of_space
from pipeline.service.retained_files import RetainedFile

PAGE = "page"
KEPT_S = 24 * 3600
IN_USE_S = 600  # time that a visitor has between upload and request
SHARE = 0.1  # of what the service may keep
SWEEP_S = 60


class VisitorFiles:
    """The folder of one page. Methods are thread-safe.

    Args:
        max_bytes: maximum size of the folder.
        forget: called with the deleted files.
    """

    def __init__(
        self, folder: Path, max_bytes: Callable[[], float], forget: Callable[[set[str]], None] = lambda names: None
    ):
        self.folder, self.max_bytes, self.forget = folder, max_bytes, forget
        self.bytes = 0.0
        self.swept_at = 0.0
        self.lock = threading.Lock()

    def arrived(self, size: int) -> None:
        """Account for an upload of ``size`` bytes.

        Raises:
            ProblemError: 507 the folder is full of files in use.
        """
        self.bytes += size
        if self.bytes > self.max_bytes():
            self.sweep()
            if self.bytes > self.max_bytes():
                raise short_of_space("the page holds as many files of visitors as it may")

    def tidy(self) -> None:
        if time.monotonic() - self.swept_at > SWEEP_S:
            self.sweep()

    def sweep(self) -> None:
        """Delete old files, and the oldest others beyond the limit."""
        with self.lock:
            now, self.swept_at = time.time(), time.monotonic()
            files = sorted(_files(self.folder), key=lambda file: file.used_at)
            left, deleted = sum(file.size for file in files), set[str]()
            for file in files:
                age = now - file.used_at
                if age < KEPT_S and (left <= self.max_bytes() or age < IN_USE_S):
                    break
                with suppress(OSError):
                    os.unlink(file.name)
                    left -= file.size
                    deleted.add(file.name)
                with suppress(OSError):  # the folder is not empty
                    os.rmdir(os.path.dirname(file.name))
            self.bytes = left
            self.forget(deleted)


def _files(folder: Path) -> Iterator[RetainedFile]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with suppress(OSError):
                info = os.stat(path, follow_symlinks=False)
                yield RetainedFile(path, info.st_size, info.st_mtime)
