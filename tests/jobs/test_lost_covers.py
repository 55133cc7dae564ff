"""A row that says ok has its audio file, whole; where it has not, the cover is made again, and that is said."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from pipeline.results.missing_audio import covers_without_audio, drop_rows
from pipeline.results.progress import Progress
from pipeline.results.reader import RESULTS, read_results
from pipeline.results.writer import ResultWriter, as_table
from pipeline.storage.lease import OutputGoneError
from pipeline.storage.output_store import OutputError
from pipeline.storage.store import Store, open_store
from pipeline.workflows.restyle import run
from pipeline.workflows.restyle_job import dry_run
from pipeline.workflows.specs import ValidateSpec
from pipeline.workflows.validate import validate
from tests.jobs.test_held_folders import Checks
from tests.jobs.test_output_faults import TRACKS, Reporter, covers, job_on, launch
from tests.s3_server import S3Server


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "local":
        yield open_store(str(tmp_path / "out"))
        return
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="songs")
    yield open_store("s3://songs/out")
    server.stop()


def row(item: str, **values: Any) -> dict[str, Any]:
    whole = {"status": "ok", "audio_path": f"audio/t/{item}.flac", "audio_bytes": 3}
    return {"item_id": item, "track_id": "t"} | whole | values


def write(store: Store, *rows: dict[str, Any]) -> None:
    writer = ResultWriter(store, RESULTS)
    writer.add(as_table(rows))
    writer.flush()


def test_rows_are_compared_with_files(store: Store) -> None:
    assert covers_without_audio(store) == set()
    write(store, row("whole"), row("gone"), row("cut"), row("empty"))
    # Of a version that did not know the size, of jobs.measure, and one that failed.
    write(store, row("old", audio_bytes=None), row("old empty", audio_bytes=None))
    write(store, row("theirs", audio_path="/nowhere/x.flac"), row("failed", status="failed", audio_path=None))
    write(store, row("encoded anew", audio_bytes=9))
    write(store, row("encoded anew"))
    there = {"whole": b"abc", "cut": b"ab", "empty": b"", "old": b"?", "old empty": b"", "encoded anew": b"abc"}
    for name, content in there.items():
        store.write(f"audio/t/{name}.flac", content)
    lost = covers_without_audio(store)
    assert lost == {"gone", "cut", "empty", "old empty"}

    drop_rows(store, lost)
    assert covers_without_audio(store) == set()
    rows = read_results(store)["item_id"].to_pylist()
    assert rows == ["whole", "old", "theirs", "failed", "encoded anew", "encoded anew"]
    drop_rows(store, {"encoded anew", "failed"})
    assert read_results(store)["item_id"].to_pylist() == ["whole", "old", "theirs", "failed"]


def test_a_mount_that_is_away_is_no_loss(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    write(store, row("a"))
    (tmp_path / "out" / "audio").symlink_to(tmp_path / "not mounted")
    with pytest.raises(OutputError, match="not mounted, which is not there"):
        covers_without_audio(store)
    (tmp_path / "not mounted").mkdir()
    with pytest.raises(OutputError, match="audio is empty"):
        covers_without_audio(store)
    (tmp_path / "not mounted" / "t").mkdir()
    (tmp_path / "not mounted" / "t" / "a.flac").write_bytes(b"abc")
    assert covers_without_audio(store) == set()


def test_a_folder_of_audio_that_was_removed_is_made_again(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    write(store, row("a"))
    assert covers_without_audio(store) == {"a"}


class AtFirst(Reporter):
    """Does something when the first covers are there."""

    def __init__(self, do: Callable[[], object]):
        super().__init__()
        self.do = do

    def advanced(self, progress: Progress) -> None:
        do, self.do = self.do, lambda: None
        do()


@pytest.mark.usefixtures("local_pool")
def test_what_is_lost_is_said_and_made_again(tmp_path: Path) -> None:
    output, job = tmp_path / "out", job_on(tmp_path, tmp_path / "out")
    store = open_store(str(output))

    def lose() -> None:
        next(output.glob("audio/*/*.flac")).unlink()

    reporter = AtFirst(lose)
    summary = run(job, reporter)
    assert (summary.ok, summary.lost, summary.complete) == (TRACKS - 1, 1, False)
    reporter.closed(job, summary)
    assert "lost: the audio files of 1 covers" in reporter.console.file.getvalue()
    assert sorted(read_results(store)["item_id"].to_pylist()) == covers(output)

    before = {path: path.read_bytes() for path in sorted(output.glob("audio/*/*.flac"))}
    gone, cut, empty, *whole = before
    times = {path: path.stat().st_mtime_ns for path in whole}
    gone.unlink()
    cut.write_bytes(before[cut][:-1])
    empty.write_bytes(b"")
    checks = Checks()
    found = validate(job, ValidateSpec(decode="none"), checks)
    (said,) = [check for check in checks if check.name == "audio files"]
    assert (found.can_start, found.ok, said.bad, found.forecast.items) == (True, False, 3, 4)
    foreseen = dry_run(job)
    assert (foreseen.lost, foreseen.items, foreseen.done) == (3, 4, TRACKS - 4)

    reporter = Reporter()
    summary = run(job, reporter)
    assert (summary.ok, summary.remade, summary.lost, summary.new) == (TRACKS, 3, 0, 4)
    assert "3 of these were finished" in reporter.console.file.getvalue()
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in whole} == times
    assert sorted(read_results(store)["item_id"].to_pylist()) == covers(output)
    assert run(job, Reporter()).new == 0


@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_that_vanishes_ends_the_job(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(OutputGoneError, match=f"output {output} is gone"):
        run(job_on(tmp_path, output), AtFirst(lambda: output.rename(tmp_path / "moved")))
    assert not output.exists()
    (tmp_path / "moved").rename(output)
    next(output.glob(".*.lease")).unlink()  # this process lives on
    assert covers(output)
    assert launch(tmp_path, output).ok == TRACKS
