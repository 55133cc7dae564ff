"""Passwords and signatures of URIs are in nothing that a job prints or leaves behind."""

import io
import logging
import sqlite3
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from rich.console import Console

from acestep.errors import RestyleError
from acestep.redaction import MASK, redacted, redacted_values, without_secrets
from jobs.streams import TextOutput
from pipeline.catalogue.manifest import read_manifest
from pipeline.catalogue.problem_report import ProblemLog
from pipeline.cluster.spec import ClusterSpec
from pipeline.metrics.spec import MetricsSpec
from pipeline.planning.external_covers import read_pairs
from pipeline.report.spec import FindingsSpec
from pipeline.results.reader import REJECTED, RESULTS
from pipeline.storage.store import open_store
from pipeline.tracking.faults import TrackerError
from pipeline.tracking.spec import TrackingSpec
from pipeline.tracking.tracker import Tracker
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.console_validation import ConsoleValidationReporter, conclude
from pipeline.workflows.restyle import run
from pipeline.workflows.specs import RestyleJob, ValidateSpec
from pipeline.workflows.validate import validate
from tests.conftest import tone
from tests.miniature import BASE

SECRET, LATER = "hunter2-planted", "hunter2-rotated"


def signed(path: Path, secret: str = SECRET) -> str:
    """A URI of a local file with a user, a password and a signature, none of which is needed to open it."""
    return f"file://bob:{secret}@localhost{path}?X-Amz-Signature={secret}&part=1&token={secret}"


def texts_of(file: Path) -> Iterator[bytes]:
    """What a file holds, unpacked where it is compressed."""
    yield str(file).encode()
    yield file.read_bytes()
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        yield f"{table.to_pylist()}{table.schema.metadata}".encode()
    if file.suffix == ".arrow":
        yield str(pa.ipc.open_stream(file.read_bytes()).read_all().to_pylist()).encode()
    if file.suffix == ".db":
        yield "\n".join(sqlite3.connect(file).iterdump()).encode()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as packed:
            yield from map(packed.read, packed.namelist())


def told_in(folder: Path) -> list[str]:
    """Files of a folder that hold a planted secret."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    return [str(file) for file in files if any(b"hunter2" in text for text in texts_of(file))]


def console() -> tuple[Console, io.BytesIO]:
    """A console as a launched job has it, and what arrives there."""
    raw = io.BytesIO()
    return Console(file=TextOutput(raw, "utf-8", write_through=True), width=10_000), raw


def job_in(folder: Path, secret: str) -> RestyleJob:
    rows = [
        ("a", signed(folder / "a.wav", secret), signed(folder / "a.wav", secret)),
        ("gone", signed(folder / "gone.wav", secret), ""),
        ("noise", signed(folder / "noise.wav", secret), ""),
        ("remote", f"s3://key:{secret}@bucket/a.wav?secret_key={secret}", ""),
        ("nowhere", f"nowhere://bob:{secret}@host/a.wav", ""),
        ("../unsafe", signed(folder / "a.wav", secret), ""),
    ]
    lines = ["track_id,source,reference_audio,caption", *(f"{i},{source},{r},jazz" for i, source, r in rows)]
    (folder / "tracks.csv").write_text("\n".join(lines))
    return RestyleJob(
        manifest=signed(folder / "tracks.csv", secret),
        output=signed(folder / "out", secret),
        cover={"inference_steps": 2, "seed": 1, "flow_edit_source_caption": f"http://u:{secret}@host"},
        model=BASE,
        cluster=ClusterSpec(workers=1),
        metrics=MetricsSpec(enabled=False),
        findings=FindingsSpec(listen_tracks=1, pictures=False),
    )


@pytest.fixture
def music(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    soundfile.write(tmp_path / "a.wav", tone(1.0), 48_000)
    (tmp_path / "noise.wav").write_bytes(b"no audio")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://bob:{SECRET}@127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ACCESS_KEY_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://bob:{SECRET}@127.0.0.1:9")
    return tmp_path


@pytest.mark.usefixtures("ray_cluster")
def test_a_folder_a_console_and_the_runs_of_a_job_tell_no_secret(music: Path) -> None:
    ways, raw = console()
    summary = run(job_in(music, SECRET), ConsoleReporter(ways))
    reporter = ConsoleReporter(ways)
    reporter.closed(job_in(music, SECRET), summary)
    assert (summary.ok, summary.failed, summary.rejected) == (1, 4, 1)
    assert told_in(music / "out") == []
    assert b"hunter2" not in raw.getvalue()
    assert f"bob:{SECRET}".encode() not in raw.getvalue()
    assert MASK.encode() in raw.getvalue()
    row = next(r for r in pq.read_table(music / "out" / RESULTS).to_pylist() if r["track_id"] == "a")
    assert row["source"] == f"file://{MASK}@localhost{music}/a.wav?X-Amz-Signature={MASK}&part=1&token={MASK}"
    # With other signatures it is the same job: nothing is made or written twice.
    again = run(job_in(music, LATER), ConsoleReporter(ways))
    assert (again.ok, again.new) == (1, 0)
    assert told_in(music / "out") == []
    ids = [r["item_id"] for part in (RESULTS, REJECTED) for r in pq.read_table(music / "out" / part).to_pylist()]
    assert len(ids) == len(set(ids)) == 6


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_report_and_what_is_said_of_a_manifest(music: Path, ending: str) -> None:
    ways, raw = console()
    job = job_in(music, SECRET)
    spec = ValidateSpec("start", None, str(music / f"report.{ending}"))
    found = validate(job, spec, ConsoleValidationReporter(ways))
    conclude(found, job, spec, 1, ConsoleValidationReporter(ways))
    assert len(found.first) == 5
    (music / "kept").mkdir()
    (music / f"report.{ending}").rename(music / "kept" / f"report.{ending}")
    assert told_in(music / "kept") == []
    assert b"hunter2" not in raw.getvalue()
    assert told_in(music / "out") == []


@pytest.mark.parametrize(
    "fails",
    [
        lambda: open_store(f"nowhere://bob:{SECRET}@host/x?token={SECRET}"),
        lambda: open_store(f"s3://bucket/x?unknown=1&secret_key={SECRET}"),
        lambda: next(iter(read_manifest(f"file://bob:{SECRET}@localhost/gone.csv?sig={SECRET}"))),
        lambda: next(iter(read_pairs(f"file://bob:{SECRET}@localhost/gone.csv?sig={SECRET}"))),
        lambda: ProblemLog(f"file://bob:{SECRET}@localhost/no/such/folder/x.csv?sig={SECRET}"),
        lambda: ProblemLog(f"nowhere://bob:{SECRET}@localhost/x.csv"),
        lambda: Tracker(TrackingSpec(uri=f"ftp://bob:{SECRET}@host"), "c", open_store("/tmp"), "/tmp"),
        lambda: Tracker(TrackingSpec(uri=f"http://bob:{SECRET}@"), "c", open_store("/tmp"), "/tmp"),
    ],
)
def test_messages_of_errors(fails: Callable[[], object]) -> None:
    with pytest.raises(RestyleError) as raised:
        fails()
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in repr(raised.value)


@pytest.mark.parametrize("uri", [f"http://bob:{SECRET}@127.0.0.1:9/", f"http://127.0.0.1:9/?token={SECRET}"])
def test_a_tracker_that_is_away(tmp_path: Path, uri: str) -> None:
    tracker = Tracker(TrackingSpec(uri=uri), "c", open_store(str(tmp_path)), str(tmp_path))
    with pytest.raises(TrackerError) as raised:
        tracker.look()
    assert "hunter2" not in str(raised.value)


def test_whatever_is_printed_is_masked() -> None:
    raw = io.BytesIO()
    stream = TextOutput(raw, "utf-8", write_through=True)
    uri = f"http://bob:{SECRET}@host/?sig={SECRET}"
    print("a", uri, [uri], file=stream)
    try:
        raise OSError(f"no answer from {uri}")
    except OSError:
        traceback.print_exc(file=stream)
    handler = logging.StreamHandler(stream)
    handler.emit(logging.makeLogRecord({"msg": "try %s", "args": (uri,)}))
    assert b"hunter2" not in raw.getvalue()
    assert raw.getvalue().count(f"http://{MASK}@host/?sig={MASK}".encode()) == 4


S = SECRET


@pytest.mark.parametrize(
    ("uri", "masked"),
    [
        (f"http://bob:{S}@h:5000/x", "http://***@h:5000/x"),
        (f"http://{S}@h/x", "http://***@h/x"),
        (f"http://bob:a/{S}@h/", "http://***@h/"),
        (f"http://bob:a@{S}@h/", "http://***@h/"),
        (f"tracking.uri=http://bob:{S}@h", "tracking.uri=http://***@h"),
        (
            f"s3://b/k?endpoint_override=http://u:{S}@h:9&scheme=http",
            "s3://b/k?endpoint_override=http://***@h:9&scheme=http",
        ),
        (
            f"s3://b/k?endpoint_override=https%3A%2F%2Fu%3A{S}%40h&region=x",
            "s3://b/k?endpoint_override=***&region=x",
        ),
        (f"https://h/a?X-Amz-Credential={S}&X-Amz-Date=1", "https://h/a?X-Amz-Credential=***&X-Amz-Date=1"),
        (f"https://h/a?sv=1&sig={S}%3D", "https://h/a?sv=1&sig=***"),
        (f"https://h/a?X-Goog-Signature={S}", "https://h/a?X-Goog-Signature=***"),
        (f"https://h/#access_token={S}", "https://h/#access_token=***"),
        (f"abfs://c:{S}@a.dfs.core.windows.net/p", "abfs://c:***@a.dfs.core.windows.net/p"),
    ],
)
def test_masks(uri: str, masked: str) -> None:
    assert redacted(uri) == masked
    assert without_secrets(f"see '{uri}', please") == f"see '{masked}', please"
    assert redacted_values({"a": [uri, (uri,)], "b": 1}) == {"a": [masked, [masked]], "b": 1}


@pytest.mark.parametrize(
    "place",
    [
        "/music/a@b?sig=1.wav",
        "s3://bucket/a:b@c.wav",
        "s3://bucket/a.wav?region=eu-1&endpoint_override=http://127.0.0.1:9000",
        "gs://anonymous@bucket/a.wav",
        "hdfs://alice@node:8020/a.wav",
        "abfs://music@account.dfs.core.windows.net/a.wav",
        "http://host:8000/a@b",
        "http://[::1]:80/a@b",
    ],
)
def test_places_without_a_secret_stay_as_they_are(place: str) -> None:
    assert redacted(place) == place == redacted_values([place])[0] or place.startswith("/")


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000 + "?",
        "a." * 150_000 + "?",
        "?" + "token" * 60_000,
        "?a" * 150_000,
        "a://b:c" * 40_000,
        "http://h/?a=" + "b://?a=" * 40_000,
        "http://h/?a=" + "%25" * 100_000,
    ],
    ids=lambda text: text[:12],
)
def test_long_texts_of_clients_take_no_time(text: str) -> None:
    began = time.process_time()
    RestyleError("invalid_value", text)
    assert time.process_time() - began < 10  # minutes or hours where it grows with the square of the length


def test_messages_of_libraries_about_a_path() -> None:
    said = f"HTTPConnectionPool(host='h', port=9): Max retries exceeded with url: /api?token={S}&x=1 (Caused by X)"
    assert without_secrets(said) == said.replace(S, MASK)
