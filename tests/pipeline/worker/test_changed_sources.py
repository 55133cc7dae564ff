"""What is heard is what was planned: a worker decodes the bytes whose digest names the cover, or none."""

import hashlib
import io
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest
import soundfile
import torch
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from acestep.audio import regular_files as files
from acestep.audio.files import encode_audio, read_audio
from acestep.audio.regular_files import NotAFileError
from acestep.errors import AudioError
from pipeline.catalogue import probe as probing
from pipeline.catalogue.grid import make_settings
from pipeline.catalogue.manifest import parse_track
from pipeline.catalogue.probe import ProbeCache, probe
from pipeline.metrics.spec import MetricsSpec
from pipeline.planning.items import ItemRules
from pipeline.planning.plan import make_plan
from pipeline.results.finished_items import changed_sources, finished_items
from pipeline.results.writer import ResultWriter, as_table
from pipeline.storage import source_copy as reading
from pipeline.storage.audio_files import read_planned, read_source
from pipeline.storage.read_timeout import ReadTimeout
from pipeline.storage.source_copy import copy_source
from pipeline.storage.source_errors import SourceChangedError, SourceTimeoutError
from pipeline.storage.store import open_store
from pipeline.worker.restyle_worker import RestyleWorker
from tests import miniature
from tests.conftest import tone
from tests.pipeline.service.conftest import worker_at
from tests.s3_server import S3Server

PATIENCE = ReadTimeout(timeout_s=2.0)
LIMIT_S = 20  # what has to come at once may take so long on a busy machine


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> RestyleWorker:
    """A worker in this process; each test gives it its own output folder."""
    output = open_store(str(tmp_path_factory.mktemp("worker")))
    metrics = MetricsSpec(enabled=False)
    return RestyleWorker(worker_at(output, miniature.TURBO, source_timeout_s=PATIENCE.timeout_s, metrics=metrics))


class Catalogue:
    """One track, its plan, and a worker in this process."""

    def __init__(self, folder: Path, worker: RestyleWorker):
        self.folder, self.store = folder, open_store(str(folder / "out"))
        self.launches = 0
        for name, pitch in (("source", 220.0), ("reference", 330.0)):
            soundfile.write(folder / f"{name}.wav", tone(1.0, pitch_hz=pitch), 48_000)
        self.rules = ItemRules(make_settings({"inference_steps": 1, "seed": 1}, {}), worker.spec.model)
        self.track = parse_track(
            {"track_id": "a", "source": "source.wav", "reference_audio": "reference.wav", "caption": "jazz"},
            str(folder / "manifest.csv"),
        )
        self.worker = worker
        worker.spec = replace(worker.spec, output=self.store)

    def plan(self) -> list[dict[str, Any]]:
        """What another launch would give to a worker."""
        self.launches += 1
        work: list[pa.Table] = []
        look = ProbeCache(self.store, str(self.launches), PATIENCE, changed_sources(self.store)).of
        done = finished_items(self.store)
        make_plan([self.track], self.rules, done, look, work.append, lambda rows: None)
        return [row for table in work for row in table.to_pylist()]

    def make(self, planned: list[dict[str, Any]]) -> dict[str, Any]:
        """The row that a worker makes of the one track planned, which is kept as a driver does."""
        (row,) = self.worker.restyle(planned[0])
        writer = ResultWriter(self.store, "results")
        writer.add(as_table([row]))
        writer.flush()
        return row

    @property
    def audio(self) -> list[Path]:
        return sorted((self.folder / "out" / "audio").rglob("*.*"))


@pytest.fixture
def catalogue(tmp_path: Path, worker: RestyleWorker) -> Catalogue:
    return Catalogue(tmp_path, worker)


def other_music(path: Path) -> None:
    soundfile.write(path, tone(1.0, pitch_hz=500.0), 48_000)


def same_size_and_time(path: Path) -> None:
    before = path.stat()
    other_music(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder_of_the_name(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as one:
        here = os.open(path.parent, os.O_RDONLY)  # the path itself may be too long for a socket
        one.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


CHANGES = [
    other_music,
    same_size_and_time,
    longer,
    pipe,
    folder_of_the_name,
    link_to_a_device,
    unix_socket,
    remove,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("which", ["source", "reference"])
def test_a_source_that_changed_since_the_plan_gives_no_cover(
    catalogue: Catalogue, change: Callable[[Path], None], which: str
) -> None:
    path, kept = (catalogue.folder / name for name in (f"{which}.wav", "kept"))
    shutil.copy2(path, kept)
    planned = catalogue.plan()
    change(path)
    began = time.monotonic()
    row = catalogue.make(planned)
    assert time.monotonic() - began < LIMIT_S
    assert (row["status"], row["error_kind"]) == ("failed", "source_changed")
    assert f"{which}.wav" in row["error_message"]
    assert not catalogue.audio
    # Not final: with the file put back, the same cover is made.
    remove(path)
    shutil.copy2(kept, path)
    again = catalogue.plan()
    assert again[0]["items"] == planned[0]["items"]
    assert catalogue.make(again)["status"] == "ok"
    assert len(catalogue.audio) == 1
    assert not catalogue.plan()


def test_what_stands_in_the_place_of_a_source_is_planned_anew(catalogue: Catalogue) -> None:
    planned = catalogue.plan()
    # Size and time say that nothing changed: only the worker sees it.
    same_size_and_time(catalogue.folder / "source.wav")
    assert catalogue.plan()[0]["items"] == planned[0]["items"]
    assert catalogue.make(planned)["error_kind"] == "source_changed"
    anew = catalogue.plan()
    assert anew[0]["source_digest"] == sha256(catalogue.folder / "source.wav")
    assert anew[0]["items"] != planned[0]["items"]
    assert catalogue.make(anew)["status"] == "ok"


def test_a_source_that_cannot_be_read_now_is_not_blamed(catalogue: Catalogue) -> None:
    (planned,) = catalogue.plan()
    row = catalogue.make([planned | {"source": "/proc/self/mem"}])  # a regular file that gives an I/O error
    assert row["error_kind"] == "source_unavailable"
    assert len(catalogue.plan()) == 1


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("in_memory", [1 << 30, 1000])
def test_the_bytes_that_are_digested_are_those_that_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(reading, "IN_MEMORY_BYTES", in_memory)
    wave = torch.from_numpy(tone(2.0).T.copy())
    for kind, extension in {"wav": "wav", "flac": "flac", "mp3": "mp3", "opus": "ogg", "aac": "m4a"}.items():
        path = tmp_path / f"a.{extension}"
        path.write_bytes(encode_audio(wave, kind))
        heard, digest = read_audio(path).wave, sha256(path)
        copy = copy_source(str(path), PATIENCE)
        path.write_bytes(b"other")  # written over, in the same file
        assert copy.digest == digest
        assert torch.equal(read_audio(copy.file).wave, heard)
        with pytest.raises(SourceChangedError):
            read_planned(str(path), digest, PATIENCE)


@pytest.mark.parametrize("change", [pipe, folder_of_the_name, link_to_a_device, unix_socket])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "a.wav"
    path.touch()
    change(path)
    began = time.monotonic()
    assert probe(str(path)).error_kind == "unreadable_file"
    with pytest.raises(AudioError):
        read_audio(path)
    with pytest.raises(NotAFileError):
        read_source(str(path))
    assert time.monotonic() - began < LIMIT_S


def test_a_pipe_that_takes_the_place_of_a_file_that_was_looked_at_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "a.wav")
    (tmp_path / "b.wav").touch()
    before = os.stat(tmp_path / "b.wav")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "stat", lambda path: before)
        with pytest.raises(NotAFileError):
            files.open_regular(tmp_path / "a.wav")


def test_a_file_that_is_put_back_has_the_digest_of_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file stood in its place while it was looked at, and left no trace in its size and time."""
    store, path = open_store(str(tmp_path / "out")), tmp_path / "a.wav"
    soundfile.write(path, tone(1.0), 48_000)
    digest = sha256(path)
    real = probing.probe

    def swapped(uri: str, **how: Any) -> probing.Probe:
        path.rename(tmp_path / "kept")
        other_music(path)
        return real(uri, **how)

    monkeypatch.setattr(probing, "probe", swapped)
    assert ProbeCache(store, "1").of([str(path)])[str(path)].digest != digest
    monkeypatch.setattr(probing, "probe", real)
    (tmp_path / "kept").rename(path)
    assert ProbeCache(store, "2").of([str(path)])[str(path)].digest == digest


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=server.environment["AWS_ENDPOINT_URL"]).create_bucket(Bucket="songs")
    yield server
    server.resume()
    server.stop()


def put(server: S3Server, name: str, pitch_hz: float) -> str:
    content = io.BytesIO()
    soundfile.write(content, tone(1.0, pitch_hz=pitch_hz), 48_000, format="FLAC")
    client = boto3.client("s3", endpoint_url=server.environment["AWS_ENDPOINT_URL"])
    client.put_object(Bucket="songs", Key=name, Body=content.getvalue())
    return f"s3://songs/{name}?endpoint_override=127.0.0.1:{server.port}&scheme=http"


def test_an_object_that_stops_in_the_middle_is_given_up(catalogue: Catalogue, s3: S3Server) -> None:
    catalogue.track = replace(catalogue.track, source=put(s3, "a.flac", 220.0))
    planned = catalogue.plan()
    s3.stall("a.flac")
    began = time.monotonic()
    row = catalogue.make(planned)
    assert time.monotonic() - began < LIMIT_S
    assert (row["error_kind"], catalogue.audio) == ("source_timeout", [])
    with pytest.raises(SourceTimeoutError):
        copy_source(catalogue.track.source, PATIENCE)
    found = probe(catalogue.track.source, timeout=PATIENCE)
    assert found.error_kind == "source_timeout"
    s3.resume()
    assert catalogue.make(catalogue.plan())["status"] == "ok"


class SlowServer(fs.FSSpecHandler):
    """Answers each question after a while, like a store that is far away."""

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        time.sleep(0.01 * len(paths))
        return super().get_file_info(paths)


def test_many_objects_that_answer_one_after_the_other_are_all_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "AT_ONCE", 4)
    (tmp_path / "a.wav").write_bytes(b"abc")
    server = fs.PyFileSystem(SlowServer(LocalFileSystem()))
    monkeypatch.setattr(probing, "locate", lambda uri: (server, uri.removeprefix("far://")))
    uris = [f"far://{tmp_path}/./{'./' * number}a.wav" for number in range(200)]
    seen = probing._seen(uris, ReadTimeout(1.0))
    assert {found.size for found in seen.values() if found} == {3}
    assert None not in seen.values()


def test_an_object_that_changed_since_the_plan_gives_no_cover(catalogue: Catalogue, s3: S3Server) -> None:
    catalogue.track = replace(catalogue.track, source=put(s3, "a.flac", 220.0))
    planned = catalogue.plan()
    put(s3, "a.flac", 500.0)
    assert catalogue.make(planned)["error_kind"] == "source_changed"
    assert catalogue.make(catalogue.plan())["status"] == "ok"


def test_a_worker_that_is_stopped_leaves_a_read_that_hangs(
    catalogue: Catalogue, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flag:
        requested = False

    flag = Flag()
    catalogue.track = replace(catalogue.track, source=put(s3, "a.flac", 220.0))
    planned = catalogue.plan()
    s3.stall("a.flac")
    worker = catalogue.worker
    monkeypatch.setattr(worker, "spec", replace(worker.spec, source_timeout_s=600.0))
    monkeypatch.setattr(worker, "stop", flag)
    threading.Timer(0.5, setattr, [flag, "requested", True]).start()
    began = time.monotonic()
    assert list(catalogue.worker.restyle(planned[0])) == []
    assert time.monotonic() - began < LIMIT_S
