"""Exclusive lease on a folder, renewed by its holder; works on any filesystem.

A lease is a file ``.N.lease`` in the folder; the highest N holds the folder. The next holder creates N + 1 (only
one process can), checks that the older leases still belong to dead holders, and removes them. A holder touches its
file every ``BEAT_S`` seconds. On the same machine a holder is dead when its process has ended; elsewhere, when its
file has not been touched for ``DEAD_S`` seconds by the storage's clock. A lease copied together with its folder is
void.

A holder that was suspended may have lost its lease, so ``LeasedStore`` checks the lease before every write.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from acestep.errors import RequestError, RestyleError
from pipeline.storage.lease_files import (
    file_name,
    inode_of,
    lease_numbers,
    read_lease,
    seconds_since_touch,
    token_of,
    touch,
)
from pipeline.storage.lease_holder import LeaseHolder, is_alive, this_process
from pipeline.storage.output_store import OutputStore
from pipeline.storage.store import Store

BEAT_S = 5.0
DEAD_S = 60.0
LOOK_S = 1.0  # polling interval while waiting, and minimum interval between two checks of a writer
# pyarrow offers no exclusive creation on object stores. Each contender waits this long after its write and reads
# back the last writer; a write that itself took longer is withdrawn.
SETTLE_S = 2.0
log = logging.getLogger(__name__)


class HeldError(RequestError):
    """Another launch holds the folder.

    holder: that launch's process.
    """

    def __init__(self, name: str, holder: LeaseHolder):
        stop = f"stop it (`kill {holder.pid}` on {holder.host}), " if holder.pid else ""
        remedy = f"wait until it ends, {stop}or name another folder"
        super().__init__("in_use", f"{name} is in use by {holder}", remedy)
        self.holder = holder


class LeaseLostError(RestyleError):
    """This launch no longer holds the folder."""


class OutputGoneError(LeaseLostError):
    """The folder itself was moved or deleted."""


class Lease:
    """A lease held by this process or, after unpickling, by another process of the same launch.

    It is valid while the process that acquired it runs and renews it.
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
        """Start the thread that renews the lease until ``release``."""
        self.keeper = threading.Thread(target=self._keep, name="restyle-lease", daemon=True)
        self.keeper.start()

    def check(self) -> None:
        """Check that the lease is still valid.

        Raises:
            LeaseLostError: the lease is lost; the folder must not be written any more.
            OSError: the storage does not answer.
        """
        with self.lock:
            if not self.lost and _since(self.looked_at) > LOOK_S:
                self.lost = self._look()
                self.looked_at = _now()
            if self.lost:
                raise self.lost

    def release(self) -> None:
        """Stop renewing and delete the lease."""
        self.ended.set()
        if self.keeper:
            self.keeper.join(2 * BEAT_S)
        try:
            if self._is_ours():
                self.store.delete(file_name(self.number))
        except OSError as error:
            log.warning("%s: the lease is not given back (%s) and ends by itself", self.name, error)

    def _stands(self) -> bool:
        return max(lease_numbers(self.store), default=0) <= self.number and self._is_ours()

    def _is_kept(self) -> bool:
        """Whether the acquiring process runs or, on another machine, has renewed the lease recently."""
        found = read_lease(self.store, self.number)
        alive = is_alive(self.holder, self.holder.inode)
        return (
            alive
            if alive is not None
            else found is not None and seconds_since_touch(self.store, found[1]) <= DEAD_S
        )

    def _is_ours(self) -> bool:
        return token_of(self.store, self.number) == self.holder.token

    def _look(self) -> LeaseLostError | None:
        """The reason why the lease is lost, or None if it is valid."""
        if self._stands():
            if self.keeper or self._is_kept():
                return None
            return LeaseLostError("lease_lost", f"the process that held {self.name} has ended")
        if self._is_ours():  # a newer lease may be withdrawn within the settling time
            time.sleep(SETTLE_S + LOOK_S)
            if self._stands():
                return None
        other = read_lease(self.store, max(lease_numbers(self.store), default=0))
        if other is None and not self.store.exists(""):
            return OutputGoneError(
                "lease_lost",
                f"{self.name} is gone: the folder was moved or deleted while this launch worked on it",
                "put it back, and the same command goes on",
            )
        by = f"taken over by {other[0]}" if other else "removed"
        return LeaseLostError("lease_lost", f"the hold on {self.name} was {by}, so nothing more is written there")

    def _keep(self) -> None:
        while not self.ended.wait(BEAT_S):
            try:
                self.check()
                touch(self.store, self.number, self.holder)
            except LeaseLostError:
                return
            except OSError as error:
                log.warning("%s: the lease cannot be renewed: %s", self.name, error)


@dataclass(frozen=True)
class LeasedStore(OutputStore):
    """A folder that is written only while its lease is valid. It pickles to a plain ``OutputStore``.

    Writing methods raise ``LeaseLostError`` once the lease is lost.
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
    """Hold an existing, writable folder while the block runs.

    Args:
        name: the folder's name in messages.
        say: receives a warning before waiting (up to ``DEAD_S``) for a silent holder on another machine.

    Raises:
        HeldError: another launch holds the folder.
        RequestError: the folder cannot be written.
    """
    try:
        holder = replace(this_process(), inode=inode_of(store))
        number = _acquire(store, name, holder, say)
    except OSError as error:
        raise RequestError("not_writable", f"cannot be written ({error})", field=name) from error
    lease = Lease(store, name, number, holder)
    lease.keep()
    try:
        yield LeasedStore(store.filesystem, store.root, lease)
    finally:
        lease.release()


def holder_of(store: Store) -> LeaseHolder | None:
    """The current holder of a folder, or None."""
    newest = max(lease_numbers(store), default=0)
    found = read_lease(store, newest)
    if found is None:
        return None
    alive = is_alive(found[0], inode_of(store))
    if alive is None:
        alive = seconds_since_touch(store, found[1]) <= DEAD_S
    return found[0] if alive else None


def _acquire(store: Store, name: str, holder: LeaseHolder, say: Callable[[str], None]) -> int:
    """Acquire a lease and return its number."""
    while True:
        dead = {number: _outlive(store, name, number, say) for number in lease_numbers(store)}
        seen_at, newest = time.monotonic(), max(dead, default=0)
        if max(lease_numbers(store), default=0) <= newest and _create(store, newest + 1, holder, seen_at):
            # A concurrent contender may have recreated an older number after its holder released it.
            older = [number for number in lease_numbers(store) if number != newest + 1]
            if all(number <= newest and token_of(store, number) in (None, dead.get(number)) for number in older):
                for number in older:
                    with suppress(OSError):  # owned by another user; harmless
                        store.delete(file_name(number))
                return newest + 1
            store.delete(file_name(newest + 1))
        time.sleep(random.uniform(0, LOOK_S / 10))


def _outlive(store: Store, name: str, number: int, say: Callable[[str], None]) -> str | None:
    """Wait until the holder of a lease is known to be dead; return the lease's token, None if it was released.

    Raises:
        HeldError: the holder is alive.
    """
    found = read_lease(store, number)
    if found is None:
        return None
    holder, touched_ns = found
    alive = is_alive(holder, inode_of(store))
    if alive is None and (silence := seconds_since_touch(store, touched_ns)) <= DEAD_S:
        if silence > 2 * BEAT_S:
            say(f"{name} is held by {holder}, silent for {silence:.0f} s; waiting until it is for {DEAD_S:g} s")
        until = time.monotonic() + DEAD_S - silence
        while time.monotonic() < until:
            time.sleep(LOOK_S)
            now = read_lease(store, number)
            if now is None:
                return None
            if now[1] != touched_ns:
                raise HeldError(name, now[0])
    if alive:
        raise HeldError(name, holder)
    return holder.token


def _create(store: Store, number: int, holder: LeaseHolder, seen_at: float) -> bool:
    """Create a lease; False if another contender was faster.

    Args:
        seen_at: monotonic time at which the lease did not exist.
    """
    content = json.dumps(asdict(holder)).encode()
    if store.is_local:
        try:
            with open(store.path(file_name(number)), "xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True
    store.write(file_name(number), content)
    late = time.monotonic() - seen_at > SETTLE_S
    time.sleep(SETTLE_S)
    found = read_lease(store, number)
    ours = found is not None and found[0].token == holder.token
    if ours and late:
        store.delete(file_name(number))
    return ours and not late


def _now() -> tuple[float, float]:
    return time.time(), time.monotonic()


def _since(moment: tuple[float, float]) -> float:
    """Elapsed seconds by the clock that advanced further: one of the two stops while the machine is suspended."""
    return max(abs(now - then) for now, then in zip(_now(), moment, strict=True))
