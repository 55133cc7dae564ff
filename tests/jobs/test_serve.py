"""The service as a newcomer starts it: the commands of README, on a real cluster, over loopback."""

import hashlib
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import soundfile
from rich.console import Console

from acestep.handler import AceStepHandler
from acestep.inference import GenerationConfig, GenerationParams, generate_music
from acestep.sampling.setting import SETTING_FIELDS
from jobs.serve import keys_of
from pipeline.cluster.spec import ClusterSpec
from pipeline.metrics.spec import MetricsSpec
from pipeline.results.reader import read_results
from pipeline.storage.store import open_store
from pipeline.tracking.spec import TrackingSpec
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.restyle import run
from pipeline.workflows.specs import RestyleJob
from tests.launched import LOOPBACK, free_ports, listeners
from tests.miniature import BASE

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().partition("## Covers on request")[2].partition("\n## ")[0]
COMMANDS = [
    re.sub(r"\\\n\s*", "", block).strip() for block in re.findall(r"^```bash\n(.*?)^```", SECTION, re.M | re.S)
]
SONG = ROOT / "pipeline" / "demo_catalogue" / "oh_susanna.ogg"
START_S = 120


@contextmanager
def served(command: str, **more: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A service by its command line, with ``more`` settings, and its address; ended by SIGTERM."""
    port = free_ports(1)[0]
    words = [sys.executable, *shlex.split(command)[1:], f"port={port}", *(f"{k}={v}" for k, v in more.items())]
    process = subprocess.Popen(words, cwd=ROOT, env=os.environ | {"RESTYLE_API_KEYS": ""})
    address, began = f"http://127.0.0.1:{port}", time.monotonic()
    try:
        while True:
            try:
                if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None, f"it left with {process.returncode}"
            assert time.monotonic() - began < START_S, "it does not answer"
            time.sleep(0.3)
        yield address, process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    start = next(command for command in COMMANDS if "jobs.serve" in command)
    output = tmp_path_factory.mktemp("service")
    with served(start, model=BASE, output=str(output), **{"cluster.workers": "1"}) as running:
        yield running


@pytest.fixture
def address(service: tuple[str, subprocess.Popen[bytes]]) -> str:
    return service[0]


def test_every_port_listens_on_loopback(service: tuple[str, subprocess.Popen[bytes]]) -> None:
    found = listeners(psutil.Process(service[1].pid))
    assert {name for name, _ in found} >= {"gcs_server", "raylet"}
    assert {ip for _, ip in found} <= LOOPBACK


def test_the_call_of_the_readme(address: str, tmp_path: Path) -> None:
    call = next(command for command in COMMANDS if command.startswith("curl"))
    line = call.replace("http://localhost:8001", address)
    assert line != call
    subprocess.run(shlex.split(line), cwd=tmp_path, check=True, timeout=120)
    made = soundfile.info(tmp_path / shlex.split(line)[-1])
    assert (made.samplerate, made.channels) == (48_000, 2)
    assert made.duration == pytest.approx(soundfile.info(SONG).duration, abs=0.05)


def test_the_page_of_the_readme(address: str) -> None:
    said = re.search(r"http://localhost:8001(/\S*?)?(?=[\s,.;)])", SECTION.partition("### Open it")[2])
    assert said
    page = urllib.request.urlopen(f"{address}{said[1] or '/'}", timeout=20)
    assert page.status == 200
    assert "text/html" in page.headers["content-type"]


def test_a_slow_client_and_a_foreign_page_hold_and_drive_nothing(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    begun = f"POST /v1/audio/generations HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with ExitStack() as held:
        for _ in range(8):
            client = held.enter_context(socket.create_connection((host, int(port)), timeout=20))
            client.sendall(f"{begun}Content-Length: 100\r\n\r\n{{".encode())
        time.sleep(0.5)
        asked = {"caption": "x"}
        assert httpx.post(f"{address}/v1/audio/generations", json=asked, timeout=20).status_code == 422
        for headers, status in (({"Host": "evil.example"}, 421), ({"Origin": "https://evil.example"}, 403)):
            reply = httpx.post(f"{address}/v1/audio/generations", json=asked, headers=headers, timeout=20)
            assert reply.status_code == status


@pytest.mark.usefixtures("local_pool")
def test_a_request_is_the_same_three_ways(address: str, base: AceStepHandler, tmp_path: Path) -> None:
    """Over HTTP, by the Python API and in a catalogue: the same bytes."""
    asked: dict[str, Any] = {
        "task_type": "cover",
        "src_audio": SONG.name,
        "caption": "heavy metal with distorted guitars",
        "audio_cover_strength": 0.5,
        "guidance_scale": 5.0,
        "inference_steps": 4,
        "shift": 3.0,
        "cfg_interval_end": 0.95,
        "seed": 11,
    }
    reply = httpx.post(f"{address}/v1/audio/generations", json=asked, timeout=120)
    assert reply.status_code == 200, reply.text
    over_http = hashlib.sha256(reply.content).hexdigest()

    params = GenerationParams(**asked | {"src_audio": str(SONG)})
    made = generate_music(base, None, params, GenerationConfig(batch_size=1), tmp_path)
    assert made.success, made.error
    assert hashlib.sha256(Path(made.audios[0]["path"]).read_bytes()).hexdigest() == over_http

    track = {"track_id": "a", "source": str(SONG), "caption": asked["caption"]}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(track))
    job = RestyleJob(
        manifest=str(tmp_path / "manifest.jsonl"),
        output=str(tmp_path / "out"),
        cover={name: getattr(params, name) for name in (*SETTING_FIELDS, "seed")},
        model=BASE,
        cluster=ClusterSpec(workers=1),
        tracking=TrackingSpec(enabled=False),
        metrics=MetricsSpec(enabled=False),
    )
    assert run(job, ConsoleReporter(Console(file=io.StringIO()))).complete
    rows = read_results(open_store(str(tmp_path / "out"))).to_pylist()
    assert [row["audio_sha256"] for row in rows] == [over_http]


def test_short_keys_are_refused() -> None:
    assert keys_of(" , ") == ()
    assert keys_of(f"{'a' * 16}, {'b' * 20}") == ("a" * 16, "b" * 20)
    with pytest.raises(Exception, match="fewer than 16 characters"):
        keys_of("secret")
