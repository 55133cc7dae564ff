"""A mount that stops to answer, as one of a server that is gone: a FUSE filesystem in this process.

It needs /dev/fuse and the right to mount, which root has.
"""

import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, BATCH_FORGET = 1, 2, 3, 14, 15, 18, 25, 26, 42
ROOT_NODE = 1
DIRECT_IO = 1  # every read comes here
MNT_DETACH = 2
HEADER = struct.Struct("<IIQQIIII")
_libc = ctypes.CDLL(None, use_errno=True)


class DeadMount:
    """Files by name, read-only, in ``folder``. While ``dead`` is set requests of the kinds in it get no answer."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: dict[str, bytes] = {}
        self.dead: frozenset[int] = frozenset()
        self.waiting: list[tuple[int, int, int, bytes]] = []
        self.device = os.open("/dev/fuse", os.O_RDWR)

    def add(self, name: str, content: bytes) -> str:
        """A file more; its path."""
        self.files[name] = content
        return str(self.folder / name)

    def die(self, *kinds: int) -> None:
        """Stop to answer requests of some kinds, or all."""
        self.dead = frozenset(kinds or (LOOKUP, GETATTR, OPEN, READ))

    def revive(self) -> None:
        """Answer again, what waits included."""
        self.dead, waiting, self.waiting = frozenset(), self.waiting, []
        for request in waiting:
            self._answer(*request)

    def serve(self) -> None:
        """Answer requests until it is unmounted."""
        while True:
            try:
                message = os.read(self.device, 1 << 17)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return
            _, kind, unique, node, *_ = HEADER.unpack_from(message)
            request = (kind, unique, node, message[HEADER.size :])
            if kind in self.dead:
                self.waiting.append(request)
            else:
                self._answer(*request)

    def _answer(self, kind: int, unique: int, node: int, body: bytes) -> None:
        if kind in (FORGET, BATCH_FORGET):
            return
        names = list(self.files)
        code, content = 0, b""
        if kind == INIT:
            content = struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 17, 0, 12, 9, 1 << 16, 1, 0, 0, 0)
        elif kind == LOOKUP:
            name = body.rstrip(b"\0").decode()
            if name in names:
                node = names.index(name) + 2
                content = struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + self._attributes(node)
            else:
                code = -errno.ENOENT
        elif kind == GETATTR:
            content = struct.pack("<QII", 0, 0, 0) + self._attributes(node)
        elif kind == OPEN:
            content = struct.pack("<QII", 0, DIRECT_IO, 0)
        elif kind == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            content = self.files[names[node - 2]][offset : offset + size]
        elif kind not in (RELEASE, FLUSH):
            code = -errno.ENOSYS
        with suppress(OSError):  # who asked is gone
            os.write(self.device, struct.pack("<IiQ", 16 + len(content), code, unique) + content)

    def _attributes(self, node: int) -> bytes:
        size, mode = 0, stat.S_IFDIR | 0o755
        if node != ROOT_NODE:
            size, mode = len(list(self.files.values())[node - 2]), stat.S_IFREG | 0o644
        times = (0, 1_700_000_000, 0, 0, 0, 0)
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, 0, *times, mode, 1, 0, 0, 0, 4096, 0)


def can_mount() -> bool:
    """Whether this process may mount."""
    return os.path.exists("/dev/fuse") and os.access("/dev/fuse", os.W_OK) and os.geteuid() == 0


@contextmanager
def mounted(folder: Path) -> Iterator[DeadMount]:
    """A mount on ``folder`` while the block runs.

    Raises:
        OSError: it may not be mounted.
    """
    mount = DeadMount(folder)
    options = f"fd={mount.device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    if _libc.mount(b"dead", os.fsencode(folder), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), f"cannot mount: {os.strerror(ctypes.get_errno())}")
    threading.Thread(target=mount.serve, daemon=True).start()
    try:
        yield mount
    finally:
        mount.revive()
        _libc.umount2(os.fsencode(folder), MNT_DETACH)
        os.close(mount.device)  # ends what still waits
