"""A source that changes after it was admitted, and a root that stops to answer."""

import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile

from pipeline.service.config import Access, Limits
from pipeline.service.problem_details import ProblemError
from pipeline.service.source_access import admit, upload
from pipeline.service.uploads import UploadStore
from pipeline.storage.store import open_store
from tests.conftest import tone
from tests.dead_mount import DeadMount, can_mount, mounted
from tests.pipeline.service.conftest import Served, serving

BODY = {"caption": "jazz", "inference_steps": 2, "guidance_scale": 1.0, "seed": 1, "async": True}
LIMITS = Limits(source_timeout_s=1.5)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose music may be changed."""
    music = tmp_path_factory.mktemp("changing")
    for name, pitch in (("long", 220.0), ("song", 330.0)):
        soundfile.write(music / f"{name}.wav", tone(5.2, pitch_hz=pitch), 48_000)
    with serving(music, tmp_path_factory.mktemp("out"), LIMITS) as one:
        yield one


def ask(served: Served, **changes: Any) -> str:
    """The address of a generation that waits."""
    reply = httpx.post(served.generations, json=BODY | changes, timeout=60)
    assert reply.status_code == 202
    return f"{served.address}{reply.headers['location']}"


def test_a_source_that_is_replaced_while_it_waits_gives_no_cover_under_its_name(
    own: Served, eventually: Callable[[Callable[[], object]], None]
) -> None:
    def over(address: str) -> dict[str, Any]:
        eventually(lambda: httpx.get(address).json()["status"] in ("done", "failed"))
        state: dict[str, Any] = httpx.get(address).json()
        return state

    song = own.music / "song.wav"
    content = song.read_bytes()
    busy = ask(own, src_audio="long.wav", inference_steps=200)
    waiting = ask(own, src_audio="song.wav")
    soundfile.write(song, tone(5.2, pitch_hz=500.0), 48_000)
    httpx.delete(busy)
    assert over(waiting)["status"] == "failed"
    reply = httpx.get(f"{waiting}/audio/0")
    assert (reply.status_code, reply.json()["error"]["kind"]) == (409, "source_changed")
    assert not list((own.output / "audio").rglob("*.flac"))

    # What stands there now is another source, and with the first one back its cover is made.
    other = over(ask(own, src_audio="song.wav"))
    song.write_bytes(content)
    first = over(ask(own, src_audio="song.wav"))
    assert (other["status"], first["status"]) == ("done", "done")
    assert len(list((own.output / "audio").rglob("*.flac"))) == 2


def test_an_upload_whose_kept_file_is_damaged_is_kept_again(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    uploads = UploadStore(open_store(str(tmp_path / "out")), str(tmp_path / "out"))
    soundfile.write(tmp_path / "song.wav", tone(1.0), 48_000)
    content = (tmp_path / "song.wav").read_bytes()
    kept = Path(upload("src_audio", io.BytesIO(content), "song.wav", LIMITS, uploads).uri)
    kept.write_bytes(content[:-1000])
    upload("src_audio", io.BytesIO(content), "song.wav", LIMITS, uploads)
    assert kept.read_bytes() == content


@pytest.fixture
def dead_root(tmp_path: Path) -> Iterator[DeadMount]:
    for name in ("mnt", "content"):
        (tmp_path / name).mkdir()
    soundfile.write(tmp_path / "song.wav", tone(1.0), 48_000)
    for k in range(12):
        shutil.copy(tmp_path / "song.wav", tmp_path / "content" / f"{k}.wav")
    with mounted(tmp_path / "mnt", tmp_path / "content") as mount:
        yield mount


@pytest.mark.skipif(not can_mount(), reason="FUSE filesystems may not be mounted here")
def test_a_root_that_does_not_answer_is_a_reply_and_the_others_are_read(
    tmp_path: Path, dead_root: DeadMount
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "music").mkdir()
    (tmp_path / "song.wav").rename(tmp_path / "music" / "song.wav")
    uploads = UploadStore(open_store(str(tmp_path / "out")), str(tmp_path / "out"))
    access = Access(roots=(str(dead_root.folder), str(tmp_path / "music")))
    assert admit("src_audio", "0.wav", access, LIMITS, uploads).digest
    dead_root.die()
    took = []
    for k in range(12):
        began = time.monotonic()
        with pytest.raises(ProblemError) as told:
            admit("src_audio", f"{dead_root.folder}/{k}.wav", access, LIMITS, uploads)
        took.append(time.monotonic() - began)
        assert (told.value.status, told.value.kind) == (503, "source_timeout")
        assert told.value.retry_after_s
    assert max(took) < 20
    assert max(took[-4:]) < 1.0  # nobody waits for it any more
    assert admit("src_audio", "song.wav", access, LIMITS, uploads).digest
    dead_root.revive()
    time.sleep(0.5)
    assert admit("src_audio", "5.wav", access, LIMITS, uploads).digest
