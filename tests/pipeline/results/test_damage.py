"""Damaged and foreign files in an output folder: named at every door, never taken for what they are not."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from acestep.audio.files import encode_audio
from acestep.errors import RestyleError
from acestep.sampling.setting import CoverSetting
from pipeline.catalogue.probe import PROBES, ProbeCache
from pipeline.planning.estimate import measured_rates
from pipeline.planning.items import ModelFacts
from pipeline.results.carried_columns import CarriedColumns
from pipeline.results.job_file import JOB_FILE, read_record, tracking_key
from pipeline.results.missing_audio import altered_covers
from pipeline.results.repair import FOUND, DamageError, check_parts, decode_verified_flac, find_cover
from pipeline.results.table import (
    REJECTED,
    RESULTS,
    ROWS,
    SCHEMA,
    ResultWriter,
    as_table,
    current_rows,
    finished_items,
    made_with,
    read_results,
)
from pipeline.service.generation_request import GenerationRequest
from pipeline.service.generation_store import OPEN, ORDERS, GenerationStore
from pipeline.storage.output_store import OutputError, OutputStore
from pipeline.storage.parquet_parts import PartError, encode_parquet, part_names, read_parts, write_part
from pipeline.storage.store import Store, locate, open_store
from pipeline.tracking.spec import TrackingSpec
from pipeline.workflows.compare import compare_folder
from pipeline.workflows.measure import measure_all
from pipeline.workflows.restyle import run
from pipeline.workflows.restyle_job import dry_run
from pipeline.workflows.select import select_winners
from pipeline.workflows.specs import CompareJob, MeasureJob, RestyleJob, SelectJob, TuneSpec, ValidateSpec
from pipeline.workflows.tune import tune_catalogue
from pipeline.workflows.validate import validate
from tests import miniature
from tests.conftest import tone
from tests.job_command import run_job
from tests.mlflow_database import create_database
from tests.pipeline.tracking.test_tracker import rows as tracked_rows
from tests.pipeline.tracking.test_tracker import track as tracked
from tests.s3_server import S3Server


class Told:
    """Takes what a job tells."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.checks: list[Any] = []

    def planned(self, *told: object) -> None: ...

    def advanced(self, progress: object) -> None: ...

    def looked(self, done: int, total: int) -> None: ...

    def checked(self, check: Any) -> None:
        self.checks.append(check)

    def warned(self, message: str) -> None:
        self.warnings.append(message)


def rows_of(*items: str) -> pa.Table:
    row = {"setting_id": "s", "track_id": "t", "status": "ok", "unmeasured": ["all: silent"], "audio_path": "x"}
    return as_table([row | {"item_id": item, "caption": f"jazz {item}"} for item in items])


def written(folder: Path, *parts: str, name: str = RESULTS) -> list[Path]:
    """Parts of one row each; their paths."""
    store = open_store(str(folder))
    for part in parts:
        writer = ResultWriter(store, name)
        writer.add(rows_of(part))
        writer.flush()
    return [folder / name for name in part_names(store, name)]


def job_on(folder: Path, **more: Any) -> RestyleJob:
    cover = asdict(CoverSetting()) | {"seed": 1, "inference_steps": 2}
    if not (folder / "m.csv").exists():
        soundfile.write(folder / "a.wav", tone(5.1), 48_000)
        (folder / "m.csv").write_text("track_id,source,caption\na,a.wav,jazz\n")
    manifest, output = str(folder / "m.csv"), str(folder / "out")
    return RestyleJob(manifest, output, cover, model=miniature.BASE, tracking=TrackingSpec(enabled=False), **more)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(5000))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    shutil.copyfile(path.parents[1] / "other.parquet", path)


def footer(path: Path) -> None:
    """A column's name is another one: rows can be read, and that column is gone."""
    path.write_bytes(path.read_bytes().replace(b"audio_path", b"audio_patg"))


def other_columns(path: Path) -> None:
    pq.write_table(pa.table({"city": ["Bern"], "people": [134_000]}), path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def broken_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere.parquet")


DAMAGE = [cut, empty, garbage, flip, swap, footer]
FOREIGN = [other_columns, folder, pipe, broken_link]


@pytest.mark.parametrize("harm", [*DAMAGE, *FOREIGN])
@pytest.mark.parametrize("name", [RESULTS, REJECTED])
def test_harm_to_a_part_is_named_and_only_damage_is_moved(
    tmp_path: Path, harm: Callable[[Path], None], name: str
) -> None:
    store = open_store(str(tmp_path))
    _, second = written(tmp_path, "a", "b", name=name)
    written(tmp_path / "elsewhere", "c")[0].rename(tmp_path / "other.parquet")
    whole = second.read_bytes()
    harm(second)
    with pytest.raises(DamageError, match=str(second)) as error:
        check_parts(store)
    assert ("repair=true" in str(error.value)) == (harm in DAMAGE)
    with pytest.raises(PartError, match=str(second)):
        read_results(store, RESULTS, REJECTED)
    told: list[str] = []
    if harm in FOREIGN:
        with pytest.raises(DamageError, match=str(second)):
            check_parts(store, repair=True, say=told.append)
        assert not told
        assert os.path.lexists(second)
        return
    check_parts(store, repair=True, say=told.append)
    (message,) = told
    assert str(second) in message
    assert (tmp_path / name / ".damaged" / second.name).exists()
    assert read_results(store, name)["item_id"].to_pylist() == ["a"]
    check_parts(store)
    second.write_bytes(whole)
    assert read_results(store, name)["item_id"].to_pylist() == ["a", "b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_part_that_may_not_be_read_stays_where_it_is(tmp_path: Path) -> None:
    (part,) = written(tmp_path, "a")
    part.chmod(0)
    with pytest.raises(DamageError, match=r"cannot be read: Permission denied\); make it readable"):
        check_parts(open_store(str(tmp_path)), repair=True)
    part.chmod(0o600)
    check_parts(open_store(str(tmp_path)))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file of Linux that no read gets a byte of")
def test_a_part_that_the_disk_does_not_give_back_stays_where_it_is(tmp_path: Path) -> None:
    (part,) = written(tmp_path, "a")
    part.unlink()
    part.symlink_to("/proc/self/mem")
    with pytest.raises(DamageError, match=f"{part} cannot be used .*Input/output error.*make it readable"):
        check_parts(open_store(str(tmp_path)), repair=True)
    assert part.is_symlink()


def test_whatever_bit_is_flipped_is_found(tmp_path: Path) -> None:
    (part,) = written(tmp_path, "a")
    store, whole = open_store(str(tmp_path)), part.read_bytes()
    for place in random.Random(0).sample(range(len(whole)), 300):
        part.write_bytes(bytes([*whole[:place], whole[place] ^ 1, *whole[place + 1 :]]))
        with pytest.raises(PartError, match=part.name):
            read_results(store, columns=("item_id",))


@pytest.mark.parametrize("launch", ["20260101T000000000000-a1b2c3", "20260101T000000000000-123456"])
def test_a_checksum_of_decimal_digits_is_one(tmp_path: Path, launch: str) -> None:
    store = open_store(str(tmp_path))
    for number in range(3000):  # one checksum in 43 is such
        rows = rows_of(str(number)).select(["item_id", "track_id", "status", "audio_path"])
        name = write_part(store, RESULTS, launch, 0, rows)
        if name.removesuffix(".parquet")[-8:].isdecimal():
            break
        store.delete(name)
    footer(tmp_path / name)
    with pytest.raises(PartError) as caught:
        read_results(store)
    assert caught.value.is_damaged


def test_files_under_other_names_that_hold_our_rows_are_read_and_checked_by_page(tmp_path: Path) -> None:
    """Such as parts that somebody merged, and those of earlier versions."""
    store = open_store(str(tmp_path))
    content = encode_parquet(rows_of("a"))
    for name in ("merged.parquet", "part-20260101T000000000000-abcdef-00000.parquet"):
        store.write(f"results/{name}", content)
        assert finished_items(store) == {"a"}
        place = content.index(b"jazz a")
        store.write(f"results/{name}", content[:place] + b"Jazz" + content[place + 4 :])
        with pytest.raises(DamageError, match=name) as error:
            check_parts(store)
        assert ("repair=true" in str(error.value)) == name.startswith("part-")
        store.delete(f"results/{name}")


def test_a_file_with_our_columns_in_other_types_is_foreign(tmp_path: Path) -> None:
    table = rows_of("a")
    store, name = open_store(str(tmp_path)), "results/x.parquet"
    store.write(name, encode_parquet(table.set_column(table.column_names.index("seed"), "seed", [["text"]])))
    with pytest.raises(DamageError, match=rf"{name} cannot be used .*; move it out of the folder results"):
        check_parts(store, repair=True)
    store.write(name, encode_parquet(table.drop_columns("item_id")))
    with pytest.raises(DamageError, match="it has no column 'item_id'"):
        check_parts(store, repair=True)


def test_a_part_that_is_replaced_while_the_folder_is_read(tmp_path: Path) -> None:
    (part,) = written(tmp_path, "a")
    part.unlink()
    with pytest.raises(PartError, match="give the same command again"):
        list(read_parts(open_store(str(tmp_path)), [f"{RESULTS}/{part.name}"], ROWS))


def test_a_folder_of_parts_that_cannot_be_listed_is_a_fault_of_the_output(tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_text("no folder")
    with pytest.raises(OutputError, match="Not a directory"):
        read_results(OutputStore(*locate(str(tmp_path))))


def test_what_is_no_part_is_left_alone(tmp_path: Path) -> None:
    """Unfinished files of a writer that was killed, hidden ones, and those of other kinds."""
    (part,) = written(tmp_path, "a")
    for name in (f"{part.name}.0123abcd.tmp", "._part.parquet", "notes.txt"):
        (tmp_path / RESULTS / name).write_bytes(b"PAR1 and then it was killed")
    check_parts(open_store(str(tmp_path)))
    assert finished_items(open_store(str(tmp_path))) == {"a"}


FACTS = ModelFacts("demo", "f", False, "float32")
READERS: dict[str, Callable[[Store], object]] = {
    "finished": finished_items,
    "current": current_rows,
    "models": made_with,
    "own columns": CarriedColumns,
    "rates": lambda store: measured_rates(store, FACTS),
    "service": GenerationStore,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("harm", [cut, other_columns, folder])
def test_whoever_reads_rows_names_the_file(tmp_path: Path, name: str, harm: Callable[[Path], None]) -> None:
    (part,) = written(tmp_path, "a")
    harm(part)
    with pytest.raises(PartError, match=str(part)):
        READERS[name](open_store(str(tmp_path)))


DOORS: dict[str, Callable[[RestyleJob], object]] = {
    "restyle": lambda job: run(job, Told()),
    "dry run": dry_run,
    "tune": lambda job: tune_catalogue(job, TuneSpec(), Told(), print),
    "measure": lambda job: measure_all(MeasureJob(job.output), print),
    "compare": lambda job: compare_folder(CompareJob(job.output), print),
    "select": lambda job: select_winners(SelectJob(job.output, f"{job.output}_winners")),
}


@pytest.mark.parametrize("name", DOORS)
def test_every_job_refuses_a_damaged_folder_before_it_starts(tmp_path: Path, name: str) -> None:
    parts = written(tmp_path / "out", "a", "b", "c")
    empty(parts[0])
    flip(parts[2])
    with pytest.raises(DamageError) as error:
        DOORS[name](job_on(tmp_path))
    assert str(parts[0]) in str(error.value)
    assert str(parts[1]) not in str(error.value)
    assert str(parts[2]) in str(error.value)


def test_validation_lists_what_cannot_be_read(tmp_path: Path) -> None:
    parts = written(tmp_path / "out", "a", "b")
    empty(parts[0])
    written(tmp_path / "out", "r", name=REJECTED)
    foreign = tmp_path / "out" / REJECTED / "x.parquet"
    other_columns(foreign)
    found = validate(job_on(tmp_path), ValidateSpec(), Told())
    assert not found.can_start
    (errors,) = (check.errors for check in found.checks if check.errors)
    assert len(errors) == 2
    assert str(parts[0]) in errors[0]
    assert str(foreign) in errors[1]


@pytest.mark.parametrize("harm", [*DAMAGE, *FOREIGN])
def test_probes_are_read_again_where_they_are_damaged(
    tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    store, uri = open_store(str(tmp_path)), str(tmp_path / "a.wav")
    soundfile.write(uri, tone(1.0), 48_000)
    first = ProbeCache(store, "1").of([uri])
    (part,) = (tmp_path / name for name in part_names(store, PROBES))
    Path(tmp_path, "other.parquet").write_bytes(encode_parquet(pa.table({"uri": ["b"], "digest": ["wrong"]})))
    harm(part)
    assert ProbeCache(store, "2").of([uri]) == first
    if harm is footer:  # probes have no such column
        return
    assert part.name in caplog.text
    assert os.path.lexists(part) == (harm in FOREIGN)
    caplog.clear()
    assert ProbeCache(store, "3").of([uri]) == first
    assert (part.name in caplog.text) == (harm in FOREIGN)


NO_RECORDS = {
    "cut": b'{"catalogue": "songs", "param',
    "empty": b"",
    "not JSON": b"PAR1\xff\xfe",
    "a list": b"[1, 2]",
    "a number": b"7",
    "deep": b"[" * 100_000,
    "wrong types": b'{"catalogue": 5}',
    "wrong parameters": b'{"parameters": [1]}',
    "wrong labels": b'{"labels": {"a": 1}}',
    "wrong job": b'{"job": "songs"}',
    "wrong tracking": b'{"job": {"tracking": 5}}',
    "wrong experiment": b'{"job": {"tracking": {"experiment": ["x"]}}}',
    "wrong key": b'{"folder": "x", "tracking_key": {"a": 1}}',
}


@pytest.mark.parametrize("name", NO_RECORDS)
def test_a_damaged_job_file_is_told_of_and_not_used(tmp_path: Path, name: str) -> None:
    store = open_store(str(tmp_path))
    nothing, told = read_record(store), []
    store.write(JOB_FILE, NO_RECORDS[name])
    assert read_record(store, told.append) == nothing
    (message,) = told
    assert str(tmp_path / JOB_FILE) in message
    assert tracking_key(store, store.root)


@pytest.mark.parametrize("harm", [pipe, folder, broken_link])
def test_a_job_file_that_is_none_does_not_hold_anybody_up(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    harm(tmp_path / JOB_FILE)
    assert read_record(open_store(str(tmp_path)))["job"] == {}


def test_null_in_a_job_file_is_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    nothing, told = read_record(store), []
    store.write(JOB_FILE, b'{"catalogue": null, "parameters": null, "labels": null, "job": null}')
    assert read_record(store, told.append) == nothing
    assert told == []


def test_tracking_says_what_is_damaged_and_does_without_the_job_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    create_database(tmp_path / "runs.db")
    spec = TrackingSpec(uri=f"sqlite:///{tmp_path}/runs.db")
    store = open_store(str(tmp_path / "out"))
    (part,) = written(tmp_path / "out", "a")
    store.write(JOB_FILE, b"{")
    links, warnings = tracked(store, spec, tracked_rows())
    assert links
    assert not warnings
    cut(part)
    links, warnings = tracked(store, spec, tracked_rows())
    assert not links
    assert str(part) in warnings[-1]
    assert "does not take runs" not in warnings[-1]


def test_a_folder_of_covers_takes_no_pairs_though_its_job_file_is_damaged(tmp_path: Path) -> None:
    writer = ResultWriter(open_store(str(tmp_path)), RESULTS)
    writer.add(as_table([{"item_id": "i", "track_id": "t", "status": "ok", "model_fingerprint": "f"}]))
    writer.flush()
    (tmp_path / JOB_FILE).write_bytes(b"{")
    (tmp_path / "p.csv").write_text("source,output\na.wav,b.wav\n")
    with pytest.raises(RestyleError, match="give the pairs a folder of their own"):
        measure_all(MeasureJob(str(tmp_path), str(tmp_path / "p.csv")), print)


def test_a_part_damaged_while_the_service_runs_costs_a_cover_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, track, item = open_store(str(tmp_path)), "0" * 20, "1" * 20
    ids = {"track_id": track, "item_id": item, "audio_path": f"audio/{track}/{item}.flac"}
    part = tmp_path / write_part(store, RESULTS, "1", 0, as_table([ids | {"status": "ok"}]))
    store.write(ids["audio_path"], b"audio")
    shelf = GenerationStore(store)
    row = shelf.row(track, item)
    assert row is not None
    assert row["item_id"] == item
    cut(part)
    assert shelf.row(track, item) is None
    assert str(part) in caplog.text
    shelf.rows.drop(track, item)
    shelf.rows.write_anew()  # of a part that is damaged nothing can be dropped
    assert part.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": 1}', b'{"written_at": 5, "track": 7}'])
def test_a_damaged_order_is_named_and_the_others_go_on(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(tmp_path))
    shelf = GenerationStore(store)
    order = GenerationRequest("whole", {"track_id": "t", "items": [{"item_id": "i"}]}, ("i",))
    shelf.opened(order)
    store.write(f"{OPEN}/damaged.json", content)
    assert [found.id for found in shelf.left_open()] == ["whole"]
    assert "damaged.json" in caplog.text
    store.write(f"{ORDERS}/damaged.json", content)
    assert shelf.finished("damaged") is None


def test_no_word_of_an_order_changes_unnoticed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    shelf = GenerationStore(store)
    order = GenerationRequest(
        "o", {"track_id": "t", "items": [{"item_id": "i", "seed": 7}], "prompt": "jazz"}, ("i",)
    )
    shelf.opened(order)
    name, rng = f"{OPEN}/o.json", random.Random(0)
    whole = store.read(name)
    for place in range(len(whole)):
        store.write(name, bytes([*whole[:place], whole[place] ^ 1 << rng.randrange(7), *whole[place + 1 :]]))
        assert list(shelf.left_open()) in ([], [order])


def test_a_cover_is_taken_by_its_file_only_where_that_proves_whole(tmp_path: Path) -> None:
    import torch

    store, wave = open_store(str(tmp_path)), torch.from_numpy(tone(1.0).T.copy())
    whole = encode_audio(wave, "flac")
    store.write("audio/t/i.flac", whole)
    found = find_cover(store, "t", "i")
    assert found is not None
    assert found[0]["frames"] == found[1].shape[1] == 48_000
    assert (found[1] - wave).abs().max() < 1e-4
    rng = random.Random(0)
    for _ in range(50):
        place = rng.randrange(42, len(whole))  # before, the header says how long it is, not what is heard
        assert (
            decode_verified_flac(
                bytes([*whole[:place], whole[place] ^ 1 << rng.randrange(8), *whole[place + 1 :]])
            )
            is None
        )
    for length in (0, 10, 42, 500, len(whole) // 2, len(whole) - 1):
        assert decode_verified_flac(whole[:length]) is None
    assert decode_verified_flac(encode_audio(wave, "wav")) is None
    assert decode_verified_flac(whole[:26] + bytes(16) + whole[42:]) is None
    assert find_cover(store, "t", "none") is None


def test_rows_of_a_damaged_part_come_back_with_repair(tmp_path: Path, ray_cluster: None) -> None:
    """By their audio where that proves whole, and made again where it does not; the samples are the same."""
    job, store, reporter = job_on(tmp_path), open_store(f"{tmp_path}/out"), Told()
    with (tmp_path / "m.csv").open("a") as manifest:
        manifest.write("b,a.wav,rock\n")
    run(job, reporter)
    before = {row["track_id"]: row for row in read_results(store).to_pylist()}
    files = {track: tmp_path / "out" / row["audio_path"] for track, row in before.items()}
    contents = {track: file.read_bytes() for track, file in files.items()}
    parts = [tmp_path / "out" / name for name in part_names(store, RESULTS)]  # two where the machine is slow
    for part in parts:
        flip(part)
    cut(files["b"])
    with pytest.raises(DamageError) as caught:
        run(job, reporter)
    assert all(str(part) in str(caught.value) for part in parts)
    summary = run(replace(job, repair=True), reporter)
    assert (summary.ok, summary.new) == (2, 2)
    assert all(any(str(part) in message for message in reporter.warnings) for part in parts)
    after = {row["track_id"]: row for row in read_results(store).to_pylist()}
    assert {track: file.read_bytes() for track, file in files.items()} == contents
    assert {track for track, row in after.items() if row["denoise_s"] is None} == {"a"}
    assert {track for track, row in after.items() if FOUND in row["notes"]} == {"a"}
    passing = {"read_s", "condition_s", "denoise_s", "decode_s", "measure_s", "write_s", "finished_at", "notes"}
    for name in set(SCHEMA.names) - passing:
        for track in before:
            value = before[track][name]
            same = pytest.approx(value, abs=0.02) if isinstance(value, float) else value
            assert after[track][name] == same, name
    check_parts(store)


def test_parts_of_another_folder_of_ours_are_foreign(tmp_path: Path) -> None:
    """Probes are called as results are, and are whole."""
    store, uri = open_store(str(tmp_path)), str(tmp_path / "a.wav")
    soundfile.write(uri, tone(1.0), 48_000)
    ProbeCache(store, "1").of([uri])
    (name,) = part_names(store, PROBES)
    store.write(name.replace(PROBES, RESULTS), store.read(name))
    with pytest.raises(DamageError, match="move it out of the folder results"):
        check_parts(store, repair=True)


def test_a_job_file_survives_json(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    record = {"catalogue": "songs", "labels": {"a": "b"}, "parameters": {"x": 1}, "job": {"manifest": "m.csv"}}
    store.write(JOB_FILE, json.dumps(record).encode())
    assert read_record(store) == record


def test_validation_in_full_finds_covers_that_are_not_what_their_rows_say(tmp_path: Path) -> None:
    job, store = job_on(tmp_path), open_store(f"{tmp_path}/out")
    names = [f"audio/t/{item}.flac" for item in "abc"]
    rows = [
        {"item_id": name, "track_id": "t", "status": "ok", "audio_path": name, "audio_bytes": 5} for name in names
    ]
    digest = hashlib.sha256(b"whole").hexdigest()
    writer = ResultWriter(store, RESULTS)
    writer.add(as_table([row | {"audio_sha256": digest} for row in rows]))
    writer.flush()
    for name in names:
        store.write(name, b"whole")
    assert altered_covers(store) == []
    store.write(names[1], b"whola")
    store.delete(names[2])  # of which the plan tells
    assert altered_covers(store) == [names[1]]
    found = validate(job, ValidateSpec(decode="full"), Told())
    bad = {check.name: check for check in found.checks if check.bad}
    assert bad["covers"].bad == 1
    assert names[1] in bad["covers"].said


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A folder in a bucket of a server in this process."""
    boto3 = pytest.importorskip("boto3")
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=server.environment["AWS_ENDPOINT_URL"]).create_bucket(Bucket="songs")
    yield open_store(f"s3://songs/{tmp_path.name}?endpoint_override=http://127.0.0.1:{server.port}")
    server.stop()


def test_damage_on_an_object_store_is_named_and_moved_as_on_a_disk(bucket: Store) -> None:
    names = [write_part(bucket, RESULTS, f"{k}", 0, rows_of(item)) for k, item in enumerate("abcd")]
    content = bucket.read(names[0])
    bucket.write(names[0], b"")
    bucket.write(names[1], content[: len(content) // 2])
    bucket.write(names[2], bytes([*content[:200], content[200] ^ 1, *content[201:]]))
    with pytest.raises(DamageError) as error:
        check_parts(bucket)
    assert [fault.name for fault in error.value.faults] == names[:3]
    told: list[str] = []
    check_parts(bucket, repair=True, say=told.append)
    assert len(told) == 3
    assert bucket.read(f"results/.damaged/{names[1].removeprefix('results/')}") == content[: len(content) // 2]
    assert read_results(bucket)["item_id"].to_pylist() == ["d"]
    bucket.write("results/x.parquet", b"somebody's")
    bucket.write("results/y.parquet/part-0.parquet", encode_parquet(rows_of("y")))
    with pytest.raises(DamageError) as error:
        check_parts(bucket, repair=True)
    assert [fault.name for fault in error.value.faults] == ["results/x.parquet", "results/y.parquet"]


def test_a_folder_of_s3_without_results_is_sound(bucket: Store) -> None:
    check_parts(bucket)
    assert read_record(bucket)["catalogue"] is None
    assert finished_items(bucket) == set()


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("compare", []),
        ("select", ["export={folder}/winners"]),
        ("measure", []),
        ("serve", [f"model={miniature.BASE}"]),
    ],
)
def test_the_command_line_ends_with_2_and_a_line_for_each_file(tmp_path: Path, job: str, words: list[str]) -> None:
    parts = written(tmp_path / "out", "a", "b")
    cut(parts[0])
    foreign = tmp_path / "out" / RESULTS / "x.parquet"
    other_columns(foreign)
    done = run_job(job, f"output={tmp_path}/out", *(word.format(folder=tmp_path) for word in words))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    named = [line for line in done.stderr.splitlines() if ".parquet" in line]
    assert len(named) == 2
    assert str(parts[0]) in named[0]
    assert "repair=true" in named[0]
    assert str(foreign) in named[1]
