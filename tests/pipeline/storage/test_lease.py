"""One launch at a time on a folder: who holds it is told, the dead hold nothing, a lost lease writes nothing."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import boto3
import pytest

from acestep.errors import RequestError
from pipeline.storage import lease
from pipeline.storage.lease import HeldError, LeaseLostError, hold_lease, holder_of
from pipeline.storage.lease_holder import LeaseHolder, this_process
from pipeline.storage.output_store import OutputStore
from pipeline.storage.store import Store, open_store
from tests.s3_server import S3Server

ROOT = Path(__file__).parents[3]
ELSEWHERE = LeaseHolder(
    "node7", 4242, "2026-11-28T01:02:03Z", "python -m jobs.restyle output=out", "another", "1", "x"
)
# Of a process of its own: hold a folder, say so, and write whenever a line comes.
HOLD = """
import dataclasses, sys
from pipeline.storage import lease
from pipeline.storage.store import open_store
lease.BEAT_S, lease.LOOK_S = 0.1, 0.05
if sys.argv[2] == "elsewhere":
    lease.this_process = lambda ours=lease.this_process: dataclasses.replace(ours(), machine="another")
with lease.hold_lease(open_store(sys.argv[1]), "out") as held:
    print("held", flush=True)
    for k, _ in enumerate(sys.stdin):
        held.write(f"written-{k}", b"")
        print("written", flush=True)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT_S": 0.1, "DEAD_S": 2.0, "LOOK_S": 0.05, "SETTLE_S": 0.5}.items():
        monkeypatch.setattr(lease, name, seconds)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "local":
        yield open_store(str(tmp_path))
        return
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="songs")
    # Objects know their time to the second.
    for name, seconds in {"BEAT_S": 1.0, "DEAD_S": 4.0, "LOOK_S": 0.2}.items():
        monkeypatch.setattr(lease, name, seconds)
    # An opened filesystem is kept, and the port of its server is another one each time.
    yield open_store(f"s3://songs/{tmp_path.name}?endpoint_override=http://127.0.0.1:{server.port}")
    server.stop()


@contextmanager
def another(folder: Path, where: str = "here") -> Iterator[subprocess.Popen[str]]:
    """A process that holds a folder, on this machine or as if on another."""
    command = [sys.executable, "-c", HOLD, str(folder), where]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "held\n", process.communicate()[1]
        yield process
    finally:
        process.kill()
        process.wait()


def until_state(process: subprocess.Popen[str], state: str) -> None:
    while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != state:
        time.sleep(0.01)


def forge(store: Store, holder: LeaseHolder, number: int = 1) -> str:
    """A lease that somebody left; its path."""
    store.write(f".{number}.lease", json.dumps(asdict(holder)).encode())
    return store.path(f".{number}.lease")


def leases(store: Store) -> list[str]:
    return store.files("", ".lease")


def test_a_folder_is_held_by_one_and_given_back(store: Store) -> None:
    with hold_lease(store, "out") as held:
        held.write("a", b"1")
        assert holder_of(store) == held.lease.holder
        with pytest.raises(HeldError, match="out is in use by process") as refused, hold_lease(store, "out"):
            pass
        assert refused.value.holder.pid == os.getpid()
        assert refused.value.holder.host in str(refused.value)
        assert refused.value.holder.since in str(refused.value)
        assert isinstance(refused.value, RequestError)
        assert type(pickle.loads(pickle.dumps(held))) is OutputStore  # workers write without asking
    assert holder_of(store) is None
    assert leases(store) == []
    assert store.files("", "") == ["a"]


def test_the_dead_hold_nothing_and_the_stopped_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    with another(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.2 * lease.DEAD_S)  # longer than a holder elsewhere may be silent
        with pytest.raises(HeldError) as refused, hold_lease(store, "out"):
            pass
        assert refused.value.holder.pid == process.pid
        assert "python -c" in refused.value.holder.command
        process.kill()
        # A dead process that nobody has waited for is still there by its id.
        until_state(process, "Z")
        monkeypatch.setattr(lease, "DEAD_S", 60.0)
        began = time.monotonic()
        with hold_lease(store, "out"):
            assert time.monotonic() - began < 30
            assert leases(store) == [".2.lease"]


def test_a_process_id_that_is_used_again_holds_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    forge(store, replace(this_process(), started="1"))
    assert holder_of(store) is None
    with hold_lease(store, "out"):
        pass


def test_a_holder_elsewhere_lives_by_its_heartbeat(store: Store) -> None:
    forge(store, ELSEWHERE)
    said: list[str] = []
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(lease.BEAT_S / 4):
            lease.touch(store, 1, ELSEWHERE)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(HeldError, match="restyle output=out"), hold_lease(store, "out", said.append):
            pass
        assert said == []
        assert holder_of(store) == ELSEWHERE
    finally:
        ended.set()
        heart.join()
    began = time.monotonic()
    with hold_lease(store, "out", said.append) as held:
        assert lease.DEAD_S / 2 < time.monotonic() - began < lease.DEAD_S + lease.SETTLE_S + 30
        assert held.lease.number == 2
    assert leases(store) == []


def test_long_silence_is_seen_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "DEAD_S", 60.0)
    store = open_store(str(tmp_path))
    path = forge(store, ELSEWHERE)
    os.utime(path, (time.time() - 100, time.time() - 100))
    assert holder_of(store) is None
    began = time.monotonic()
    with hold_lease(store, "out"):
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("content", [b"", b"{", b'{"other": 1}', b"[]"])
def test_a_lease_that_cannot_be_read_lasts_as_long_as_a_silent_one(tmp_path: Path, content: bytes) -> None:
    store = open_store(str(tmp_path))
    store.write(".1.lease", content)
    assert holder_of(store) == LeaseHolder()
    touched_at = time.time() - 0.8 * lease.DEAD_S
    os.utime(store.path(".1.lease"), (touched_at, touched_at))
    with hold_lease(store, "out"):
        pass


def test_an_unknown_holder_is_not_to_be_killed() -> None:
    assert "kill" not in str(HeldError("out", LeaseHolder()))  # `kill 0` ends the reader's own shell
    assert f"`kill {os.getpid()}`" in str(HeldError("out", this_process()))


def test_a_copy_of_a_folder_in_use_is_free_and_a_moved_one_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 60.0)
    out, copy, moved = (tmp_path / name for name in ("out", "copy", "moved"))
    out.mkdir()
    with hold_lease(open_store(str(out)), "out") as held:
        shutil.copytree(out, copy)
        assert holder_of(open_store(str(copy))) is None
        with hold_lease(open_store(str(copy)), "copy"):
            assert leases(open_store(str(copy))) == [".2.lease"]
        assert holder_of(open_store(str(out))) == held.lease.holder
        out.rename(moved)
        with pytest.raises(HeldError), hold_lease(open_store(str(moved)), "moved"):
            pass
        moved.rename(out)


def test_of_many_at_once_one_gets_it(store: Store) -> None:
    """Eight find a dead holder's lease at the same moment."""
    forge(store, replace(this_process(), started="1"), 3)
    start, held, refused, failed = threading.Barrier(8), [], [], []

    def launch(stack: ExitStack) -> None:
        start.wait()
        try:
            held.append(stack.enter_context(hold_lease(store, "out")))
        except HeldError as error:
            refused.append(error)
        except BaseException as error:
            failed.append(error)

    with ExitStack() as stack:
        threads = [threading.Thread(target=launch, args=(stack,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert (len(held), len(refused)) == (1, 7)
        held[0].write("a", b"")
        assert leases(store) == [f".{held[0].lease.number}.lease"]


def test_a_number_that_was_used_again_meanwhile_is_not_taken_for_the_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a lease and the next one, it was given back and the folder taken by somebody quicker."""
    store, plain = open_store(str(tmp_path)), lease._create
    forge(store, replace(this_process(), started="1"))
    quicker = this_process()

    def create(store: Store, number: int, *arguments: object) -> bool:
        forge(store, quicker)
        return plain(store, number, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(lease, "_create", create)
    with pytest.raises(HeldError) as refused, hold_lease(store, "out"):
        pass
    assert refused.value.holder == quicker
    assert leases(store) == [".1.lease"]


def test_a_newer_lease_that_is_withdrawn_takes_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with hold_lease(store, "out") as held:
        held.lease.looked_at = (0.0, 0.0)
        forge(store, ELSEWHERE, 2)
        threading.Timer(0.1, store.delete, [".2.lease"]).start()
        held.write("a", b"")
        assert store.exists("a")


def test_a_lease_that_was_lost_writes_nothing(store: Store) -> None:
    with hold_lease(store, "out") as held:
        forge(store, ELSEWHERE, held.lease.number + 1)
        time.sleep(2 * lease.LOOK_S)
        writes: list[Callable[[], None]] = [
            lambda: held.write("a", b""),
            lambda: held.delete("b"),
            lambda: held.delete_folder("c"),
        ]
        for write in writes:
            with pytest.raises(LeaseLostError, match="taken over by process 4242 on node7"):
                write()
    assert store.files("", "") == [f".{held.lease.number + 1}.lease"]


def test_a_folder_that_was_emptied_is_held_no_more(tmp_path: Path) -> None:
    with hold_lease(open_store(str(tmp_path)), "out") as held:
        (tmp_path / ".1.lease").unlink()
        time.sleep(2 * lease.LOOK_S)
        with pytest.raises(LeaseLostError, match="removed"):
            held.write("a", b"")


def test_a_holder_that_was_paused_stops_before_it_writes(tmp_path: Path) -> None:
    with another(tmp_path, "elsewhere") as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGSTOP)
        until_state(process, "T")
        time.sleep(0.2)  # until its other threads stand still too
        with hold_lease(open_store(str(tmp_path)), "out") as held:
            process.send_signal(signal.SIGCONT)
            with suppress(BrokenPipeError):
                process.stdin.write("\n")
                process.stdin.flush()
            assert "LeaseLostError" in process.communicate()[1]
            held.write("b", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "written-0"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be written"), hold_lease(open_store(f"{tmp_path}/gone"), "out"):
        pass
    assert not (tmp_path / "gone").exists()


def test_passwords_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/usr/bin/python3", "-m", "jobs.restyle", "tracking.uri=http://me:secret@mlflow:5000", "output=a b"]
    monkeypatch.setattr(sys, "orig_argv", words)
    assert this_process().command == "python -m jobs.restyle 'tracking.uri=http://***@mlflow:5000' 'output=a b'"
    words[3] = "tracking.uri=postgresql://host/db?user=u&password=hunter2"
    assert this_process().command.endswith("'tracking.uri=postgresql://host/db?user=u&password=***' 'output=a b'")
