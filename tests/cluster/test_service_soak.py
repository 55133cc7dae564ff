"""A service for long: good clients among hostile and slow ones, with little room for what it keeps.

RESTYLE_SOAK is the number of requests, 2000 where it is not set.
"""

import io
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
import soundfile

from pipeline.results.collector import ResultCollector
from pipeline.results.journal import write_receipt
from pipeline.service.generation_store import GenerationStore
from pipeline.service.retained_files import kept_files
from pipeline.storage.store import open_store
from tests.cluster.test_service import replicas
from tests.conftest import tone
from tests.launched import ROOT, free_ports
from tests.miniature import TURBO

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
REQUESTS = int(os.environ.get("RESTYLE_SOAK", "2000"))
BLOCKS = 8  # each a fifth of them undisturbed, so that what else this machine does weighs on both alike
GOOD, SLOW, HOSTILE = 4, 10, 0.05
MAX_MB = 30
MB = 1_000_000
COMMAND = f"jobs.serve model={TURBO} page=false metrics=off cluster=local cluster.workers=1 limits.upload_mb=4"


@dataclass
class Seen:
    """What clients were answered, and what the service took meanwhile."""

    quiet_s: list[float] = field(default_factory=list)
    busy_s: list[float] = field(default_factory=list)
    good: Counter[int] = field(default_factory=Counter)
    hostile: Counter[str] = field(default_factory=Counter)
    memory_mb: list[float] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    kept_mb: list[float] = field(default_factory=list)
    disk_mb: list[float] = field(default_factory=list)


def song(number: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(1.0, 16_000, pitch_hz=200.0 + number / 8), 16_000, format="WAV")
    return file.getvalue()


@contextmanager
def running(output: Path, music: Path, **more: object) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """A service: its address, its process, the seconds that its start took; ended by SIGTERM."""
    port = free_ports(1)[0]
    settings = {"output": output, "port": port, "access.roots": f"[{music}]"} | more
    words = [sys.executable, "-m", *COMMAND.split(), *(f"{name}={value}" for name, value in settings.items())]
    address, began = f"http://127.0.0.1:{port}", time.monotonic()
    process = subprocess.Popen(words, cwd=ROOT, env=os.environ | {"RESTYLE_API_KEYS": ""})
    try:
        while not _healthy(address):
            assert process.poll() is None, process.returncode
            assert time.monotonic() - began < 180
            time.sleep(0.2)
        yield address, process, time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 128 + signal.SIGTERM


def _healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def ask(address: str, number: int) -> tuple[int, float]:
    """A good request: its own file, or one of the roots; status and seconds until its cover was read."""
    asked = {"caption": f"style {number}", "inference_steps": 1, "seed": number}
    began = time.monotonic()
    generations = f"{address}/v1/audio/generations"
    if number % 2:
        reply = httpx.post(generations, files={"src_audio": ("a.wav", song(number))}, data=asked, timeout=300)
    else:
        reply = httpx.post(generations, json=asked | {"src_audio": "a.wav"}, timeout=300)
    assert reply.status_code != 200 or soundfile.info(io.BytesIO(reply.content)).frames > 0
    return reply.status_code, time.monotonic() - began


# -- hostile clients: each answers with the status that it got, or with what it did


def _post(content: bytes, kind: str, **headers: str) -> Callable[[str], str]:
    def send(address: str) -> str:
        headed = {"Content-Type": kind, **headers}
        try:
            reply = httpx.post(f"{address}/v1/audio/generations", content=content, headers=headed, timeout=60)
        except httpx.TransportError:
            return "closed"
        return str(reply.status_code)

    return send


def _junk(address: str) -> str:
    files = {"src_audio": ("a.wav", os.urandom(2 * MB))}
    asked = {"caption": "x"}
    return str(httpx.post(f"{address}/v1/audio/generations", files=files, data=asked, timeout=60).status_code)


def _leave(body: bytes, announced: int, wait_s: float) -> Callable[[str], str]:
    def send(address: str) -> str:
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
            head = f"POST /v1/audio/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {announced}\r\n"
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            time.sleep(wait_s)
        return "left"

    return send


def _missing(address: str) -> str:
    return str(httpx.get(f"{address}/v1/audio/generations/{'x' * 24}", timeout=60).status_code)


WHOLE = json.dumps({"src_audio": "a.wav", "caption": "left", "inference_steps": 40, "seed": 3}).encode()
HOSTILE_CLIENTS: list[Callable[[str], str]] = [
    _junk,
    _post(b'{"src_audio": "a.wav", "capt', "application/json"),
    _post(bytes(6 * MB), "multipart/form-data; boundary=x"),
    _post(b"x" * 2 * MB, "application/json"),
    _post(b"\x00\xff--x", "multipart/form-data; boundary=x"),
    _post(b'{"src_audio": "../../etc/passwd", "caption": "x"}', "application/json"),
    _post(b'{"src_audio": "a.wav", "caption": "x", "seed": 1e400}', "application/json"),
    _leave(WHOLE, len(WHOLE), 0.3),
    _leave(WHOLE[:20], 10_000, 0.1),
    _missing,
]


def drip(address: str, number: int, over: threading.Event) -> None:
    """A slow client, always there: of a header, of a body, or of a reply."""
    port = int(address.rpartition(":")[2])
    starts = (
        b"GET /health HTT",
        b"POST /v1/audio/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3000000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n",
        b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    )
    while not over.is_set():
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.sendall(starts[number % 3])
            while not over.wait(0.5):
                if number % 3 == 2:
                    if not client.recv(10):
                        break
                else:
                    client.sendall(b"a")


def look(seen: Seen, service: int, output: Path) -> None:
    processes = [*replicas(service, "Front"), *replicas(service, "Engine"), psutil.Process(service)]
    seen.memory_mb.append(sum(p.memory_info().rss for p in processes) / MB)
    seen.handles.append(sum(p.num_fds() for p in processes))
    seen.kept_mb.append(sum(-(-file.size // 4096) * 4096 for file in kept_files(open_store(str(output)))) / MB)
    du = subprocess.run(["du", "-sk", output], capture_output=True, text=True, check=False).stdout
    seen.disk_mb.append(int(du.split()[0]) * 1024 / MB)


def block(address: str, numbers: range, seen: Seen, disturbed: bool) -> None:
    """Some good requests, a few at a time, with or without the others."""
    over = threading.Event()
    slow = [threading.Thread(target=drip, args=(address, k, over)) for k in range(SLOW if disturbed else 0)]
    for thread in slow:
        thread.start()
    rng = random.Random(numbers.start)
    seconds = seen.busy_s if disturbed else seen.quiet_s

    def one(number: int) -> None:
        status, taken = ask(address, number)
        seen.good[status] += 1
        seconds.append(taken)

    def bad(number: int) -> None:
        kind = number % len(HOSTILE_CLIENTS)
        seen.hostile[f"{kind}: {HOSTILE_CLIENTS[kind](address)}"] += 1

    with ThreadPoolExecutor(GOOD) as good, ThreadPoolExecutor(2) as hostile:
        work = []
        for number in numbers:
            if disturbed and rng.random() < HOSTILE:
                work.append(hostile.submit(bad, rng.randrange(1000)))
            else:
                work.append(good.submit(one, number))
        for one_done in work:
            one_done.result()
    over.set()
    for thread in slow:
        thread.join()


def test_a_service_is_the_same_after_thousands_of_requests(tmp_path: Path) -> None:
    music, output = tmp_path / "music", tmp_path / "out"
    music.mkdir()
    soundfile.write(music / "a.wav", tone(1.0), 48_000)
    seen, each = Seen(), REQUESTS // BLOCKS
    with running(output, music, **{"store.max_gb": MAX_MB / 1000}) as (address, process, _):
        for number in range(20):
            assert ask(address, number)[0] == 200
        for start in range(1000, 1000 + REQUESTS, each):
            block(address, range(start, start + each // 5), seen, disturbed=False)
            block(address, range(start + each // 5, start + each), seen, disturbed=True)
            look(seen, process.pid, output)
            print(*(f"{name} {all_of[-1]:.1f}" for name, all_of in vars(seen).items() if isinstance(all_of, list)))
        health = httpx.get(f"{address}/health", timeout=30).json()
    quiet, busy = statistics.median(seen.quiet_s), statistics.median(seen.busy_s)
    print(
        f"median {quiet:.3f} s undisturbed ({len(seen.quiet_s)}), {busy:.3f} s among others ({len(seen.busy_s)})"
    )
    print(dict(seen.good), dict(sorted(seen.hostile.items())), health)
    half = BLOCKS // 2
    assert set(seen.good) == {200}
    assert not [what for what in seen.hostile if re.search(r": 5\d\d$", what)]
    assert max(seen.kept_mb) <= MAX_MB
    assert max(seen.disk_mb[half:]) < 1.1 * max(seen.disk_mb[:half]) + 5
    assert statistics.median(seen.memory_mb[half:]) < 1.05 * max(seen.memory_mb[:half])
    assert statistics.median(seen.handles[half:]) < max(seen.handles[:half]) + 20
    assert busy < 1.5 * quiet


def test_a_start_with_many_finished_orders_takes_seconds(tmp_path: Path) -> None:
    music, output = tmp_path / "music", tmp_path / "out"
    music.mkdir()
    soundfile.write(music / "a.wav", tone(1.0), 48_000)
    asked = {"src_audio": "a.wav", "caption": "c", "inference_steps": 1, "seed": 1, "response_format": "json"}
    with running(output, music) as (address, _, empty_s):
        request = httpx.post(f"{address}/v1/audio/generations", json=asked, timeout=60).json()
    written = json.loads((output / "orders" / f"{request['id']}.json").read_text())
    written.pop("checksum")  # as an earlier version wrote it
    cover = next((output / "audio").glob("*/*"))
    row = written["rows"][cover.stem] | {"finished_at": None}
    store = open_store(str(output))
    for k in range(2000):
        (output / "orders" / f"copy{k:08d}.json").write_text(json.dumps(written | {"id": f"copy{k:08d}"}))
        item = f"{k:020x}"
        path = f"audio/{row['track_id']}/{item}{cover.suffix}"
        os.link(cover, output / path)
        write_receipt(store, row | {"item_id": item, "audio_path": path})
    began = time.process_time()
    ResultCollector(store).recover_receipts()
    GenerationStore(store)
    taken_s = time.process_time() - began
    with running(output, music) as (address, _, full_s):
        found = httpx.get(f"{address}/v1/audio/generations/copy{1999:08d}", timeout=60).json()
        assert found["status"] == "done"
    print(f"start with nothing {empty_s:.1f} s, with 2000 orders and covers {full_s:.1f} s")
    print(f"their receipts were adopted, and all of it listed, in {taken_s:.1f} s of the processor")
    assert taken_s < 10
