"""One launch at a time on a folder: a lease that its holder keeps alive, on any filesystem.

A lease is a file ``.N.lease`` in the folder, and the highest N holds the folder. The next holder creates N + 1,
which only one of several can do, sees that the older ones are still those of the dead, and removes them. A holder
touches its file every ``BEAT_S`` seconds. It is dead when its process is gone, where that can be seen (on the same
machine), and otherwise when its file was not touched for ``DEAD_S`` seconds by the clock of the storage. A lease
that was copied with its folder holds nothing.

A holder that was paused for longer may have lost its lease without knowing: ``LeasedStore`` looks before it
    writes.
"""

import errno
import json
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from acestep.errors import RequestError, RestyleError
from acestep.parameters.values import from_json
from pipeline.storage.lease_holder import LeaseHolder, is_alive, this_process
from pipeline.storage.output_store import OutputStore
from pipeline.storage.store import Store

SUFFIX = ".lease"
BEAT_S = 5.0
DEAD_S = 60.0
LOOK_S = 1.0  # between two looks: of one who waits, and of a holder that writes
# Object stores offer no exclusive creation through pyarrow. Of those that write at the same time, each waits this
# long and reads who was the last; a write that took longer itself does not count.
SETTLE_S = 2.0
GONE = (errno.ENOENT, errno.ESTALE)
log = logging.getLogger(__name__)


class HeldError(RequestError):
    """Another launch holds the folder; ``holder`` says which."""

    def __init__(self, name: str, holder: LeaseHolder):
        stop = f"stop it (`kill {holder.pid}` on {holder.host}), " if holder.pid else ""
        super().__init__(f"{name} is in use by {holder}; wait until it ends, {stop}or name another folder")
        self.holder = holder


class LeaseLostError(RestyleError):
    """This launch held a folder and holds it no longer."""


class OutputGoneError(LeaseLostError):
    """The folder itself was moved or deleted."""


class Lease:
    """A lease of this process, or of another one of its launch, which it reached by pickling.

    It stands while the process that took it runs and keeps it alive.
    """

    def __init__(self, store: Store, name: str, number: int, holder: LeaseHolder):
        self.store, self.name, self.number, self.holder = store, name, number, holder
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.looked_at = (0.0, 0.0)
        self.lost: LeaseLostError | None = None
        self.keeper: threading.Thread | None = None

    def __reduce__(self) -> tuple[type["Lease"], tuple[object, ...]]:
        return Lease, (Store(self.store.filesystem, self.store.root), self.name, self.number, self.holder)

    def keep(self) -> None:
        """Keep it alive until ``release``."""
        self.keeper = threading.Thread(target=self._keep, name="restyle-lease", daemon=True)
        self.keeper.start()

    def check(self) -> None:
        """See that the lease stands.

        Raises:
            LeaseLostError: it does not; nothing may be written any more.
            OSError: the storage does not answer.
        """
        with self.lock:
            if not self.lost and _since(self.looked_at) > LOOK_S:
                self.lost = self._look()
                self.looked_at = _now()
            if self.lost:
                raise self.lost

    def release(self) -> None:
        """Let others have the folder."""
        self.ended.set()
        if self.keeper:
            self.keeper.join(2 * BEAT_S)
        try:
            if self._is_ours():
                self.store.delete(_name(self.number))
        except OSError as error:
            log.warning("%s: the lease is not given back (%s) and ends by itself", self.name, error)

    def _stands(self) -> bool:
        return max(_numbers(self.store), default=0) <= self.number and self._is_ours()

    def _is_kept(self) -> bool:
        """Whether the process that took it runs, or was heard of lately where that cannot be seen."""
        found = _read(self.store, self.number)
        alive = is_alive(self.holder, self.holder.inode)
        return alive if alive is not None else found is not None and _silence(self.store, found[1]) <= DEAD_S

    def _is_ours(self) -> bool:
        return _token(self.store, self.number) == self.holder.token

    def _look(self) -> LeaseLostError | None:
        """How the lease was lost, None where it stands."""
        if self._stands():
            if self.keeper or self._is_kept():
                return None
            return LeaseLostError(f"the process that held {self.name} has ended")
        if self._is_ours():  # a newer one may be withdrawn at once
            time.sleep(SETTLE_S + LOOK_S)
            if self._stands():
                return None
        other = _read(self.store, max(_numbers(self.store), default=0))
        if other is None and not self.store.exists(""):
            return OutputGoneError(
                f"{self.name} is gone: the folder was moved or deleted while this launch worked on it; put it "
                "back, and the same command goes on"
            )
        by = f"taken over by {other[0]}" if other else "removed"
        return LeaseLostError(f"the hold on {self.name} was {by}, so nothing more is written there")

    def _keep(self) -> None:
        while not self.ended.wait(BEAT_S):
            try:
                self.check()
                _touch(self.store, self.number, self.holder)
            except LeaseLostError:
                return
            except OSError as error:
                log.warning("%s: the lease cannot be renewed: %s", self.name, error)


@dataclass(frozen=True)
class LeasedStore(OutputStore):
    """A folder that is written only while the lease on it stands. Sent elsewhere, it is an ``OutputStore``.

    Its methods raise ``LeaseLostError`` where it does not.
    """

    lease: Lease

    def __reduce__(self) -> tuple[type[OutputStore], tuple[object, str]]:
        return OutputStore, (self.filesystem, self.root)

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        self.retrying(self.lease.check)
        super().write(name, content)

    def move(self, name: str, to: str) -> None:
        self.retrying(self.lease.check)
        super().move(name, to)

    def delete(self, name: str) -> None:
        self.retrying(self.lease.check)
        super().delete(name)

    def delete_folder(self, name: str) -> None:
        self.retrying(self.lease.check)
        super().delete_folder(name)


@contextmanager
def hold_lease(store: Store, name: str, say: Callable[[str], None] = log.warning) -> Iterator[LeasedStore]:
    """Hold a folder, which exists and can be written, while the block runs.

    Args:
        name: what messages call the folder.
        say: called with a warning before the wait for a silent holder on another machine, of up to ``DEAD_S``.

    Raises:
        HeldError: somebody else holds it.
        RequestError: it cannot be written.
    """
    try:
        holder = replace(this_process(), inode=_inode(store))
        number = _acquire(store, name, holder, say)
    except OSError as error:
        raise RequestError(f"{name} cannot be written ({error})") from error
    lease = Lease(store, name, number, holder)
    lease.keep()
    try:
        yield LeasedStore(store.filesystem, store.root, lease)
    finally:
        lease.release()


def holder_of(store: Store) -> LeaseHolder | None:
    """Who holds a folder now; None where nobody does."""
    newest = max(_numbers(store), default=0)
    found = _read(store, newest)
    if found is None:
        return None
    alive = is_alive(found[0], _inode(store))
    if alive is None:
        alive = _silence(store, found[1]) <= DEAD_S
    return found[0] if alive else None


def _acquire(store: Store, name: str, holder: LeaseHolder, say: Callable[[str], None]) -> int:
    """The number of the lease that is ours now."""
    while True:
        dead = {number: _outlive(store, name, number, say) for number in _numbers(store)}
        seen_at, newest = time.monotonic(), max(dead, default=0)
        if max(_numbers(store), default=0) <= newest and _create(store, newest + 1, holder, seen_at):
            # Who looked at the same time may have created an older number again, after it was given back.
            older = [number for number in _numbers(store) if number != newest + 1]
            if all(number <= newest and _token(store, number) in (None, dead.get(number)) for number in older):
                for number in older:
                    with suppress(OSError):  # another user's, which does no harm
                        store.delete(_name(number))
                return newest + 1
            store.delete(_name(newest + 1))
        time.sleep(random.uniform(0, LOOK_S / 10))


def _outlive(store: Store, name: str, number: int, say: Callable[[str], None]) -> str | None:
    """The token of a lease whose holder is dead; None when it was given back.

    Raises:
        HeldError: it is alive.
    """
    found = _read(store, number)
    if found is None:
        return None
    holder, touched_ns = found
    alive = is_alive(holder, _inode(store))
    if alive is None and (silence := _silence(store, touched_ns)) <= DEAD_S:
        if silence > 2 * BEAT_S:
            say(f"{name} is held by {holder}, silent for {silence:.0f} s; waiting until it is for {DEAD_S:g} s")
        until = time.monotonic() + DEAD_S - silence
        while time.monotonic() < until:
            time.sleep(LOOK_S)
            now = _read(store, number)
            if now is None:
                return None
            if now[1] != touched_ns:
                raise HeldError(name, now[0])
    if alive:
        raise HeldError(name, holder)
    return holder.token


def _create(store: Store, number: int, holder: LeaseHolder, seen_at: float) -> bool:
    """Create a lease; False where another was quicker.

    Args:
        seen_at: the monotonic time when it was not there.
    """
    content = json.dumps(asdict(holder)).encode()
    if store.is_local:
        try:
            with open(store.path(_name(number)), "xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True
    store.write(_name(number), content)
    late = time.monotonic() - seen_at > SETTLE_S
    time.sleep(SETTLE_S)
    found = _read(store, number)
    ours = found is not None and found[0].token == holder.token
    if ours and late:
        store.delete(_name(number))
    return ours and not late


def _touch(store: Store, number: int, holder: LeaseHolder) -> None:
    if store.is_local:
        os.utime(store.path(_name(number)))
    else:
        store.write(_name(number), json.dumps(asdict(holder)).encode())


def _read(store: Store, number: int) -> tuple[LeaseHolder, int] | None:
    """Whose a lease is, and when it was touched last, in ns; None where there is none."""
    path = store.path(_name(number))
    try:
        if store.is_local:
            # Opening it asks the server of a network folder, and no cache.
            with open(path, "rb") as file:
                return _parsed(file.read()), os.fstat(file.fileno()).st_mtime_ns
        content = store.read(_name(number))
        [info] = store.retrying(lambda: store.filesystem.get_file_info([path]))
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in GONE:
            return None
        raise
    return _parsed(content), info.mtime_ns or 0


def _inode(store: Store) -> int:
    return os.stat(store.root or "/").st_ino if store.is_local else 0


def _token(store: Store, number: int) -> str | None:
    found = _read(store, number)
    return found[0].token if found else None


def _parsed(content: bytes) -> LeaseHolder:
    try:
        return LeaseHolder(**from_json(content))
    except (ValueError, TypeError):  # half written, or by another version
        return LeaseHolder()


def _numbers(store: Store) -> list[int]:
    names = (name.removeprefix(".").removesuffix(SUFFIX) for name in store.files("", SUFFIX))
    return [int(name) for name in names if name.isdecimal()]


def _name(number: int) -> str:
    return f".{number}{SUFFIX}"


def _silence(store: Store, touched_ns: int) -> float:
    """Seconds since a file was touched, by the storage's own clock: that of another machine may be off."""
    probe = f".{uuid.uuid4().hex}.clock"
    store.write(probe, b"")
    [info] = store.retrying(lambda: store.filesystem.get_file_info([store.path(probe)]))
    store.delete(probe)
    return ((info.mtime_ns or 0) - touched_ns) / 1e9


def _now() -> tuple[float, float]:
    return time.time(), time.monotonic()


def _since(moment: tuple[float, float]) -> float:
    """Seconds, by the clock that went further: one of them stands still while the machine sleeps."""
    return max(abs(now - then) for now, then in zip(_now(), moment, strict=True))
