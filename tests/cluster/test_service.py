"""A service under load, with a model that is killed, and after a restart."""

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest
import soundfile

from tests.conftest import tone
from tests.jobs.test_serve import served
from tests.miniature import TURBO

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
ASKED = {"task_type": "cover", "src_audio": "a.wav", "inference_steps": 1, "guidance_scale": 1.0}
LIMIT = 40


def replicas(service: int, deployment: str) -> list[psutil.Process]:
    """Processes of one deployment of the service with that process id."""
    started = ((p, " ".join(p.cmdline())) for p in psutil.Process(service).children(recursive=True))
    return [p for p, name in started if f"ServeReplica:restyle:{deployment}" in name]


async def flood(address: str, count: int) -> list[httpx.Response]:
    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as client:

        async def one(number: int) -> httpx.Response:
            asked = ASKED | {"caption": f"style {number}", "seed": number}
            return await client.post(f"{address}/v1/audio/generations", json=asked)

        return await asyncio.gather(*map(one, range(count)))


def test_a_service_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    soundfile.write(tmp_path / "music" / "a.wav", tone(5.2), 48_000)
    roots = f"access.roots=[{tmp_path / 'music'}]"
    command = f"python -m jobs.serve model={TURBO} page=false metrics=off {roots}"
    settings = {"output": str(tmp_path / "out"), "cluster.workers": "1", "limits.waiting": str(LIMIT)}

    with served(command, **settings) as (address, process):
        before = memory_mb(process.pid)
        replies = asyncio.run(flood(address, 50))
        statuses = [reply.status_code for reply in replies]
        refused = [reply for reply in replies if reply.status_code == 429]
        # One item is in each of the model's two hands; what is taken besides waits.
        assert statuses.count(200) == LIMIT + 2
        assert len(refused) == 50 - LIMIT - 2
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
        assert memory_mb(process.pid) < before + 500

        # A model killed in the middle of its work: the same request is made by the next one.
        generations = f"{address}/v1/audio/generations"
        later = ASKED | {"caption": "killed", "seed": 1, "inference_steps": 20, "async": True}
        request = httpx.post(generations, json=later, timeout=60).json()
        wait_for(generations, request["id"], "running")
        (model,) = replicas(process.pid, "Engine")
        os.kill(model.pid, signal.SIGKILL)
        wait_for(generations, request["id"], "done")

        kept = httpx.get(f"{generations}/{request['id']}/audio/0", timeout=60)
        assert kept.status_code == 200
        left = httpx.post(generations, json=later | {"seed": 2}, timeout=60).json()
        wait_for(generations, left["id"], "running")

    with served(command, **settings) as (address, _):
        generations = f"{address}/v1/audio/generations"
        again = httpx.get(f"{generations}/{request['id']}/audio/0", timeout=60)
        assert again.content == kept.content
        wait_for(generations, left["id"], "done")


def wait_for(generations: str, request: str, status: str) -> None:
    """Until a generation is that far."""
    began = time.monotonic()
    while (now := httpx.get(f"{generations}/{request}", timeout=60).json()["status"]) not in (status, "done"):
        assert now != "failed"
        assert time.monotonic() - began < 120, now
        time.sleep(0.05)


def memory_mb(service: int) -> float:
    """Of the front and the model together."""
    return sum(p.memory_info().rss for name in ("Engine", "Front") for p in replicas(service, name)) / 1e6
