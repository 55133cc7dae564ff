"""A mount whose server stops to answer: a FUSE filesystem in a process of its own, which can be stopped.

It needs /dev/fuse and the right to mount, which root has.
"""

import ctypes
import errno
import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, BATCH_FORGET = 1, 2, 3, 14, 15, 18, 25, 26, 42
ROOT_NODE = 1
DIRECT_IO = 1  # every read comes to the server
MNT_DETACH = 2
HEADER = struct.Struct("<IIQQIIII")


class DeadMount:
    """The files of one folder, as another one shows them, while their server runs."""

    def __init__(self, folder: Path, content: Path, server: "subprocess.Popen[str]"):
        self.folder, self.content, self.server = folder, content, server

    @property
    def paths(self) -> list[str]:
        """The files, as the mount shows them."""
        return [str(self.folder / name) for name in sorted(os.listdir(self.content))]

    def die(self) -> None:
        """Answer nothing any more."""
        self.server.send_signal(signal.SIGSTOP)

    def revive(self) -> None:
        """Answer again, what waits included."""
        self.server.send_signal(signal.SIGCONT)


def can_mount() -> bool:
    """Whether this process may mount."""
    return os.access("/dev/fuse", os.W_OK) and os.geteuid() == 0


@contextmanager
def mounted(folder: Path, content: Path) -> Iterator[DeadMount]:
    """The files of ``content``, which are there by now, shown in ``folder`` while the block runs."""
    command = [sys.executable, "-m", "tests.dead_mount", str(folder), str(content)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        if server.stdout.readline() != "ready\n":
            raise OSError("cannot mount")
        yield DeadMount(folder, content, server)
    finally:
        # With its server the connection ends, and whatever waits for an answer gets an error.
        server.kill()
        server.wait()
        _umount(folder)


def _mount(folder: Path) -> int:
    """The descriptor by which the kernel's requests come."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"dead", os.fsencode(folder), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "cannot mount")
    return device


def _umount(folder: Path) -> None:
    ctypes.CDLL(None).umount2(os.fsencode(folder), MNT_DETACH)


def serve(device: int, content: Path) -> None:
    """Answer requests until it is unmounted."""
    names = sorted(os.listdir(content))
    while True:
        try:
            message = os.read(device, 1 << 17)
        except OSError as error:
            if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                continue
            return
        _, kind, unique, node, *_ = HEADER.unpack_from(message)
        if kind in (FORGET, BATCH_FORGET):
            continue
        code, reply = _answer(kind, node, message[HEADER.size :], content, names)
        with suppress(OSError):  # who asked is gone
            os.write(device, struct.pack("<IiQ", 16 + len(reply), code, unique) + reply)


def _answer(kind: int, node: int, body: bytes, content: Path, names: list[str]) -> tuple[int, bytes]:
    if kind == INIT:
        return 0, struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 17, 0, 12, 9, 1 << 16, 1, 0, 0, 0)
    if kind == LOOKUP:
        name = body.rstrip(b"\0").decode()
        if name not in names:
            return -errno.ENOENT, b""
        node = names.index(name) + 2
        return 0, struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + _attributes(node, content, names)
    if kind == GETATTR:
        return 0, struct.pack("<QII", 0, 0, 0) + _attributes(node, content, names)
    if kind == OPEN:
        return 0, struct.pack("<QII", 0, DIRECT_IO, 0)
    if kind == READ:
        _, offset, size = struct.unpack_from("<QQI", body)
        return 0, (content / names[node - 2]).read_bytes()[offset : offset + size]
    return (0 if kind in (RELEASE, FLUSH) else -errno.ENOSYS), b""


def _attributes(node: int, content: Path, names: list[str]) -> bytes:
    size, mode = 0, stat.S_IFDIR | 0o755
    if node != ROOT_NODE:
        size, mode = (content / names[node - 2]).stat().st_size, stat.S_IFREG | 0o644
    times = (0, 1_700_000_000, 0, 0, 0, 0)
    return struct.pack("<QQQQQQIIIIIIIIII", node, size, 0, *times, mode, 1, 0, 0, 0, 4096, 0)


if __name__ == "__main__":
    requests = _mount(Path(sys.argv[1]))
    print("ready", flush=True)
    serve(requests, Path(sys.argv[2]))
