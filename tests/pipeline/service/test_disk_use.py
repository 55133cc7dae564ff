"""What clients send and services make is bounded on the disk, and goes when there is too much of it."""

import io
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile

from pipeline.results.reader import read_results
from pipeline.service.config import Limits, StoreSpec
from pipeline.service.disk_quota import RESERVE_BYTES
from pipeline.service.retained_files import kept_files
from pipeline.service.scratch import SCRATCH
from pipeline.storage.store import open_store
from tests.conftest import tone
from tests.disks import mounted
from tests.pipeline.service.conftest import Served, serving

MB = 1_000_000


LIMITS = Limits(upload_mb=3.0, body_kb=200.0, source_seconds=30.0, waiting=6)

ASKED = {"caption": "jazz", "inference_steps": 1, "guidance_scale": 1.0, "response_format": "json"}


def song(pitch_hz: float = 220.0, seconds: float = 1.0, rate: int = 48_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(seconds, rate, pitch_hz=pitch_hz), rate, format="WAV")
    return file.getvalue()


def send(served: Served, content: bytes, **more: Any) -> httpx.Response:
    files = {"src_audio": ("a.wav", content), **more.pop("files", {})}
    return httpx.post(served.generations, files=files, data=ASKED | {"seed": 1} | more, timeout=60)


def names(folder: Path) -> list[str]:
    """What of the service's files is there."""
    return sorted(file.name for file in kept_files(open_store(str(folder))))


@pytest.fixture(scope="module")
def roomy(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(music, tmp_path_factory.mktemp("roomy"), LIMITS) as one:
        yield one


def kept_bytes(folder: Path) -> int:
    return sum(file.size for file in kept_files(open_store(str(folder))))


LONG = song(seconds=31.0, rate=8_000)


REFUSED: dict[str, tuple[int, Callable[[Served], httpx.Response]]] = {
    "junk": (415, lambda served: send(served, os.urandom(MB))),
    "nothing": (415, lambda served: send(served, b"")),
    "too long": (413, lambda served: send(served, LONG)),
    "too large": (413, lambda served: send(served, bytes(4 * MB))),
    "an unknown name": (422, lambda served: send(served, song(), capton="x")),
    "a value out of range": (422, lambda served: send(served, song(), inference_steps=0)),
    "a junk reference": (415, lambda served: send(served, song(), files={"reference_audio": ("r", b"junk")})),
    "a reference elsewhere": (422, lambda served: send(served, song(), reference_audio="/etc/passwd")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_not_kept(roomy: Served, name: str) -> None:
    before = names(roomy.output)
    status, ask = REFUSED[name]
    assert ask(roomy).status_code == status
    assert names(roomy.output) == before
    assert not list((roomy.output / SCRATCH).iterdir())
    assert not roomy.admission.store.quota.holds


def test_an_upload_that_another_order_has_stays_when_one_is_refused(roomy: Served) -> None:
    content = song(seconds=1.5)
    assert send(roomy, content).status_code == 200
    before = names(roomy.output)
    assert send(roomy, content, files={"reference_audio": ("r", b"junk")}).status_code == 415
    assert names(roomy.output) == before


def test_a_client_that_leaves_in_the_middle_of_its_file_leaves_nothing(
    roomy: Served, eventually: Callable[[Callable[[], object]], None]
) -> None:
    before, port = names(roomy.output), int(roomy.address.rpartition(":")[2])
    head = b'--x\r\nContent-Disposition: form-data; name="src_audio"; filename="a"\r\n\r\n'
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(
            b"POST /v1/audio/generations HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + head + song(seconds=8.0)[:MB]
        )
        time.sleep(0.2)
    eventually(lambda: not roomy.admission.store.quota.holds)
    assert names(roomy.output) == before
    assert not list((roomy.output / SCRATCH).iterdir())


def test_what_finds_no_place_is_not_kept(
    music: Path, tmp_path: Path, eventually: Callable[[Callable[[], object]], None]
) -> None:
    with serving(music, tmp_path, Limits(waiting=1)) as served:
        later = {"async": "true", "inference_steps": 20}
        requests = [send(served, song(), seed=seed, **later) for seed in range(2)]
        eventually(lambda: served.admission.scheduler.busy and served.admission.scheduler.queue)
        refused = send(served, song(330.0), seed=9)
        assert [reply.status_code for reply in (*requests, refused)] == [202, 202, 429]
        eventually(lambda: not [name for name in os.listdir(tmp_path / "orders/open") if "tmp" in name])
        assert len(os.listdir(tmp_path / "uploads")) == 1
        assert len(os.listdir(tmp_path / "orders" / "open")) == 2
        for request in requests:
            httpx.delete(served.address + request.json()["url"])


def test_covers_go_when_there_are_too_many_and_are_made_again(music: Path, tmp_path: Path) -> None:
    with serving(music, tmp_path, LIMITS, store_spec=StoreSpec(max_gb=2.2e-3)) as served:
        asked = ASKED | {"src_audio": "country_song.wav"}  # each is 0.5 MB at the least

        def make(seed: int) -> dict[str, Any]:
            return httpx.post(served.generations, json=asked | {"seed": seed}, timeout=60).json()

        first = make(1)
        assert httpx.get(served.address + first["covers"][0]["audio_url"]).status_code == 200
        for seed in range(2, 9):
            make(seed)
            assert kept_bytes(tmp_path) < 2.2 * MB
        gone = httpx.get(f"{served.address}{first['url']}/audio/0")
        assert (gone.status_code, gone.json()["error"]["kind"]) == (410, "gone")
        told = httpx.get(served.address + first["url"]).json()
        assert (told["status"], told["covers"][0]["status"], told["covers"][0]["audio_url"]) == (
            "done",
            "gone",
            None,
        )
        again = make(1)
        assert again["covers"][0]["item_id"] == first["covers"][0]["item_id"]
        assert again["covers"][0]["row"]["finished_at"] != first["covers"][0]["row"]["finished_at"]
        assert again["covers"][0]["row"]["audio_sha256"] == first["covers"][0]["row"]["audio_sha256"]
        assert httpx.get(served.address + again["covers"][0]["audio_url"]).status_code == 200
        # What an order says of its files, folders and rows that are left: those that are there.
        generation_store = served.admission.store
        for _ in generation_store.rows.fold():
            pass
        generation_store.rows.write_anew()
        paths = set(read_results(open_store(str(tmp_path)))["audio_path"].to_pylist())
        assert paths == {name for name in names(tmp_path) if name.startswith("audio/")}
        assert not generation_store.quota.holds
        assert not generation_store.quota.reservations


@pytest.mark.parametrize("audio_format", ["flac", "mp3", "wav32", "opus"])
def test_the_room_promised_to_a_cover_is_enough(roomy: Served, audio_format: str) -> None:
    """Also where the source is shorter than any cover."""
    promised: list[int] = []
    quota = roomy.admission.store.quota
    usual, seed = quota.reserve, len(audio_format) + 100

    def reserve(sizes: Mapping[str, int], refuse: bool = True) -> None:
        promised.extend(sizes.values())
        usual(sizes, refuse)

    quota.reserve = reserve  # type: ignore[method-assign]
    try:
        made = send(roomy, song(), audio_format=audio_format, mp3_bitrate="320k", seed=seed).json()
    finally:
        quota.reserve = usual  # type: ignore[method-assign]
    assert made["covers"][0]["row"]["audio_bytes"] < promised[0] < 1.3e6 * (1 + (audio_format == "wav32"))


def test_a_cover_that_a_client_reads_stays(music: Path, tmp_path: Path) -> None:
    """A client that takes its time keeps the file; when it is through, others have their turn."""
    soundfile.write(music / "long.wav", tone(29.0, 16_000), 16_000)
    with serving(music, tmp_path, LIMITS) as served:
        asked = ASKED | {"src_audio": "long.wav", "audio_format": "wav32", "seed": 1}
        made = httpx.post(served.generations, json=asked, timeout=120).json()
        path = tmp_path / next(name for name in names(tmp_path) if name.startswith("audio/"))
        quota = served.admission.store.quota
        with httpx.stream("GET", served.address + made["covers"][0]["audio_url"], timeout=60) as reply:
            chunks = reply.iter_bytes(1000)
            next(chunks)
            quota.spec, quota.max_bytes = StoreSpec(max_gb=1e-9), 0.0
            quota.evict()
            assert path.exists()
            assert sum(map(len, chunks)) + 1000 == path.stat().st_size
        until = time.monotonic() + 10
        while quota.holds and time.monotonic() < until:
            time.sleep(0.02)
        quota.evict()
        assert not path.exists()
        assert not path.parent.exists()


def test_the_source_of_a_waiting_cover_stays(
    music: Path, tmp_path: Path, eventually: Callable[[Callable[[], object]], None]
) -> None:
    with serving(music, tmp_path, LIMITS) as served:
        quota = served.admission.store.quota
        requests = [
            send(served, song(pitch), seed=1, **{"async": "true", "inference_steps": 20}).json()
            for pitch in (220.0, 330.0, 440.0)
        ]
        quota.spec = StoreSpec(keep_days=1e-9)
        time.sleep(0.01)
        quota.evict()
        assert len(os.listdir(tmp_path / "uploads")) == 3

        def done() -> bool:
            return all(
                httpx.get(served.address + request["url"]).json()["status"] == "done" for request in requests
            )

        eventually(done)
        eventually(lambda: not quota.holds)
        quota.evict()
        assert names(tmp_path) == []


def test_short_space_is_said_and_over_when_there_is_room(roomy: Served) -> None:
    quota, free = roomy.admission.store.quota, [RESERVE_BYTES]
    asked, usual = quota.ask_free, names(roomy.output)
    quota.ask_free = lambda: free[0]
    try:
        short = send(roomy, song(550.0))
        assert (short.status_code, short.json()["error"]["kind"]) == (507, "short_of_space")
        assert int(short.headers["retry-after"]) > 0
        assert names(roomy.output) == usual
        free[0] -= 1
        quota.look()
        health = httpx.get(f"{roomy.address}/health").json()
        assert (health["status"], health["store"]["short"]) == ("short_of_space", True)
        free[0] = 1000 * MB
        assert send(roomy, song(550.0)).status_code == 200
        health = httpx.get(f"{roomy.address}/health").json()
        assert (health["status"], health["store"]["free_bytes"]) == ("ok", 1000 * MB)
    finally:
        quota.ask_free = asked


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 28 MB."""
    with mounted(tmp_path / "disk", 28) as folder:
        yield folder


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with (folder / "else").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


def test_a_full_disk_is_survived_and_spoils_nothing(
    small_disk: Path, music: Path, eventually: Callable[[Callable[[], object]], None]
) -> None:
    """Whenever it fills: before a request, while its cover is made, while junk comes; all is well when there is
    room."""
    with serving(music, small_disk, Limits(upload_mb=3.0, source_seconds=30.0)) as served:
        for _ in range(3):
            assert send(served, os.urandom(2 * MB)).status_code == 415
        known = ASKED | {"seed": 1, "src_audio": "country_song.wav"}
        assert httpx.post(served.generations, json=known, timeout=60).status_code == 200
        later = {"async": "true", "inference_steps": 20, "response_format": "json"}
        request = send(served, song(330.0), **later).json()
        eventually(lambda: httpx.get(served.address + request["url"]).json()["status"] == "running")
        fill(small_disk)
        for _ in range(3):
            short = send(served, song(440.0))
            assert (short.status_code, short.json()["error"]["kind"]) == (507, "short_of_space")
        before = httpx.post(served.generations, json=known, timeout=60).json()
        assert httpx.get(served.address + before["covers"][0]["audio_url"]).status_code == 200
        eventually(lambda: httpx.get(served.address + request["url"]).json()["status"] in ("done", "failed"))
        told = httpx.get(served.address + request["url"]).json()["covers"][0]
        assert told["status"] == "done" or (told["error"]["status"], told["error"]["kind"]) == (
            507,
            "short_of_space",
        )
        assert httpx.get(f"{served.address}/health").json()["status"] == "short_of_space"
        (small_disk / "else").unlink()
        for pitch in (330.0, 440.0):
            assert send(served, song(pitch), inference_steps=20).json()["status"] == "done"
        eventually(lambda: httpx.get(f"{served.address}/health").json()["status"] == "ok")
        assert not served.admission.store.quota.holds
        assert not list(small_disk.rglob("*.tmp"))


def page_files(folder: Path) -> list[Path]:
    return [path for path in (folder / SCRATCH / "page").rglob("*") if path.is_file()]


def test_what_visitors_of_the_page_send_is_bounded_and_gone_after_a_restart(music: Path, tmp_path: Path) -> None:
    def visit(served: Served, content: bytes) -> int:
        files = {"files": ("a.wav", content)}
        return httpx.post(f"{served.address}/cover/gradio_api/upload", files=files, timeout=60).status_code

    keep = StoreSpec(max_gb=30e-3)
    with serving(music, tmp_path, LIMITS, page=True, store_spec=keep) as served:
        assert visit(served, song()) == 200
        assert len(page_files(tmp_path)) == 1
        statuses = [visit(served, os.urandom(MB)) for _ in range(5)]
        assert statuses[:2] == [200, 200]
        assert statuses[3:] == [507, 507]
        # What nobody can be about to use makes room.
        for path in page_files(tmp_path):
            os.utime(path, (1e9, 1e9))
        assert visit(served, os.urandom(MB)) == 200
        assert len(page_files(tmp_path)) == 1
        left = tmp_path / SCRATCH / "page" / "left"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"x")  # a service that was killed
    with serving(music, tmp_path, LIMITS, page=True, store_spec=keep):
        assert page_files(tmp_path) == []
