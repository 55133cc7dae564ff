"""A fault of the output folder ends the job: what is finished is kept, and the next launch makes the rest.

The faults are real ones: a full disk, a limit on file sizes, a place that is no folder, a bucket that refuses.
"""

import errno
import io
import json
import os
import platform
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import soundfile
from rich.console import Console

from pipeline.catalogue.grid import make_settings
from pipeline.catalogue.manifest import read_manifest
from pipeline.catalogue.probe import probe_all
from pipeline.cluster.spec import ClusterSpec
from pipeline.metrics.spec import MetricsSpec
from pipeline.planning.items import ItemRules, ModelFacts
from pipeline.planning.plan import make_plan
from pipeline.results.collector import ResultCollector
from pipeline.results.finished_items import finished_items
from pipeline.results.journal import unwritten_receipts
from pipeline.results.reader import REJECTED, RESULTS, read_results
from pipeline.results.writer import ResultWriter, as_table
from pipeline.service.problem_details import of_row
from pipeline.storage.output_store import OutputError, OutputStore
from pipeline.storage.source_errors import source_kind
from pipeline.storage.store import locate, open_store
from pipeline.storage.transient_errors import TRANSIENT_KINDS
from pipeline.tracking.spec import TrackingSpec
from pipeline.worker.restyle_worker import RestyleWorker
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.restyle import run
from pipeline.workflows.specs import RestyleJob
from pipeline.workflows.summary import Summary
from tests import miniature
from tests.conftest import tone
from tests.disks import mounted
from tests.pipeline.service.conftest import worker_at

TRACKS = 5
COVER = {"inference_steps": 1, "seed": 1}
MB = 1 << 20


class Reporter(ConsoleReporter):
    """Spoils the output folder between plan and work."""

    def __init__(self, spoil: Callable[[], object] = lambda: None):
        super().__init__(Console(file=io.StringIO(), width=500))
        self.spoil = spoil

    def planned(self, *parts: Any) -> None:
        super().planned(*parts)
        self.spoil()


def job_on(folder: Path, output: Path) -> RestyleJob:
    rows = []
    for k in range(TRACKS):
        if not (folder / f"{k}.flac").exists():
            soundfile.write(folder / f"{k}.flac", tone(5.0 + k / 8, pitch_hz=220.0 + 20 * k), 48_000)
        rows.append({"track_id": f"t{k}", "source": f"{k}.flac", "caption": "jazz"})
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return RestyleJob(
        manifest=str(folder / "m.jsonl"),
        output=str(output),
        cover=COVER,
        model=miniature.TURBO,
        cluster=ClusterSpec(workers=1),
        tracking=TrackingSpec(enabled=False),
        metrics=MetricsSpec(enabled=False),
    )


def launch(folder: Path, output: Path, spoil: Callable[[], object] = lambda: None) -> Summary:
    return run(job_on(folder, output), Reporter(spoil))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own."""
    with mounted(tmp_path / "disk", 64) as folder:
        yield folder


def fill(disk: Path, leave: int) -> None:
    """Leave so many bytes free."""
    with (disk / "ballast").open("wb") as ballast:
        ballast.write(bytes(shutil.disk_usage(disk).free - leave))


def covers(output: Path) -> list[str]:
    assert not [file for file in output.rglob("*") if file.name.endswith(".tmp")]
    return sorted(file.stem for file in output.glob("audio/*/*"))


@pytest.mark.usefixtures("ray_cluster")
def test_a_full_disk_ends_the_job_and_the_next_launch_makes_the_rest(tmp_path: Path, disk: Path) -> None:
    output = disk / "out"
    with pytest.raises(OutputError) as caught:
        launch(tmp_path, output, lambda: fill(disk, 3 * MB))
    assert str(caught.value) == f"output {output}: No space left on device; make room there"
    made = covers(output)
    assert 0 < len(made) < TRACKS
    (disk / "ballast").unlink()
    written = {path: path.stat().st_mtime_ns for path in output.glob("audio/*/*")}
    summary = launch(tmp_path, output)
    assert (summary.ok, summary.failed, summary.rejected) == (TRACKS, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    rows = read_results(open_store(str(output)), RESULTS, REJECTED)
    assert sorted(rows["item_id"].to_pylist()) == covers(output)
    assert set(rows["status"].to_pylist()) == {"ok"}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["results", "audio", "receipts"])
def test_a_part_of_the_folder_that_cannot_be_written_ends_the_job(tmp_path: Path, name: str) -> None:
    output = tmp_path / "out"
    with pytest.raises(OutputError, match=f"output {output}: Not a directory"):
        launch(tmp_path, output, lambda: (output / name).write_text("no folder"))
    (output / name).unlink()
    made = covers(output)
    known = [*read_results(open_store(str(output)))["item_id"].to_pylist()]
    known += [Path(name).stem for name in unwritten_receipts(open_store(str(output)))]
    assert made == sorted(known)
    assert len(made) == {"audio": 0, "results": TRACKS}.get(name, len(made)) <= TRACKS


class Flag:
    """A stop flag of this process."""

    def __init__(self) -> None:
        self.fault, self.requested = "", False

    def request(self, fault: str = "") -> None:
        self.fault, self.requested = fault, True


@pytest.fixture
def planned(tmp_path: Path) -> list[dict[str, Any]]:
    """The plan of two tracks."""
    rules = ItemRules(make_settings(COVER, {}), ModelFacts("demo_turbo", "f00d", is_turbo=True, dtype="float32"))
    job, work = job_on(tmp_path, tmp_path / "out"), []
    make_plan(read_manifest(job.manifest), rules, set(), probe_all, work.append, lambda final: None)
    return work[0].to_pylist()[:2]


@contextmanager
def short_files() -> Iterator[None]:
    """No file of this process may be longer than 100 kB, which a cover is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_cover_that_cannot_be_written_is_no_row_of_a_job(tmp_path: Path, planned: list[dict[str, Any]]) -> None:
    store = OutputStore(*locate(str(tmp_path / "out")))
    Path(store.root).mkdir()
    flag = Flag()
    spec = worker_at(store, model=miniature.TURBO, node=platform.node())
    worker = RestyleWorker(spec, flag)
    with short_files():
        assert list(worker.restyle(planned[0])) == []
    assert flag.fault == f"output {store.root}: File too large; allow larger files there"
    assert covers(Path(store.root)) == []

    worker.stop = None  # as in a service, whose client is told
    with short_files():
        (row,) = worker.restyle(planned[0])
    assert (row["status"], row["error_kind"]) == ("failed", "storage_error")
    assert of_row(row, "").status == 503
    (row,) = worker.restyle(planned[0])
    assert row["status"] == "ok"

    worker.stop = flag = Flag()
    shutil.rmtree(store.root)
    assert list(worker.restyle(planned[1])) == []
    assert "the folder was moved or deleted" in flag.fault
    assert not Path(store.root).exists()


def test_rows_wait_where_others_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / REJECTED).write_text("no folder")
    collector = ResultCollector(OutputStore(*locate(str(tmp_path))))
    collector.rejected.max_rows = 1
    for status in ("rejected", "ok", "failed"):
        with pytest.raises(OutputError):
            collector.add(as_table([{"item_id": status, "track_id": "t", "status": status}]))
    (tmp_path / REJECTED).unlink()
    collector.flush()
    rows = read_results(open_store(str(tmp_path)), RESULTS, REJECTED)
    assert sorted(rows["item_id"].to_pylist()) == ["failed", "ok", "rejected"]


def test_a_half_written_file_that_cannot_be_removed_is_a_fault_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "audio" / "t" / "i.flac.0.tmp").mkdir(parents=True)
    with pytest.raises(OutputError):
        OutputStore(*locate(str(tmp_path))).remove_unfinished("audio/t/i.flac")


@pytest.mark.parametrize(("instead", "kind"), [("loop", "source_unavailable"), ("", "source_changed")])
def test_a_source_that_was_there_and_cannot_be_read_is_no_verdict(
    tmp_path: Path, planned: list[dict[str, Any]], instead: str, kind: str
) -> None:
    store = open_store(str(tmp_path / "out"))
    worker = RestyleWorker(worker_at(store, model=miniature.TURBO, node=platform.node()), Flag())
    source = (tmp_path / "0.flac").rename(tmp_path / "away.flac")
    if instead:
        (tmp_path / "0.flac").symlink_to("0.flac")  # opening it is an error, as on a mount that is away
    (row,) = worker.restyle(planned[0])
    assert (row["status"], row["error_kind"]) == ("failed", kind)
    assert of_row(row, "").status == {"source_unavailable": 503, "source_changed": 409}[kind]
    source.replace(tmp_path / "0.flac")
    assert [made["status"] for made in worker.restyle(planned[0])] == ["ok"]
    writer = ResultWriter(store, RESULTS)
    writer.add(as_table([row]))
    writer.flush()
    assert finished_items(store) == set()


@pytest.mark.parametrize(
    ("kind", "final"),
    [
        *((kind, False) for kind in sorted(TRANSIENT_KINDS)),
        *((kind, True) for kind in ("missing_file", "unreadable_audio", "too_long", "worker_died", "bad_request")),
    ],
)
def test_what_a_launch_makes_again_by_itself(tmp_path: Path, kind: str, final: bool) -> None:
    """Whichever version wrote the row."""
    store = open_store(str(tmp_path))
    for folder, status in ((RESULTS, "failed"), (REJECTED, "rejected")):
        writer = ResultWriter(store, folder)
        writer.add(as_table([{"item_id": status, "status": status, "error_kind": kind}]))
        writer.flush()
    assert finished_items(store) == ({"failed", "rejected"} if final else set())
    assert finished_items(store, retry_failed=True) == set()


def test_the_newest_failure_counts(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for kinds in (("unreadable_audio", "out_of_memory"), ("out_of_memory", "unreadable_audio")):
        writer = ResultWriter(store, RESULTS)
        items = zip("ab", kinds, strict=True)
        writer.add(as_table([{"item_id": i, "status": "failed", "error_kind": kind} for i, kind in items]))
        writer.flush()
    assert finished_items(store) == {"b"}


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EIO, "source_unavailable"),
        (errno.ESTALE, "source_unavailable"),
        (errno.ENOTCONN, "source_unavailable"),
        (errno.ETIMEDOUT, "source_unavailable"),
        (None, "source_unavailable"),  # an object store's
        (errno.ENOENT, "unreadable_file"),
        (errno.EACCES, "unreadable_file"),
        (errno.ELOOP, "unreadable_file"),
    ],
)
def test_errors_of_reading_a_source(number: int | None, kind: str) -> None:
    error = OSError("trouble") if number is None else OSError(number, os.strerror(number))
    assert source_kind(error) == kind
