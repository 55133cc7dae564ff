"""Damaged and foreign files in an output folder: named at every door, never taken for what they are not."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import soundfile

from pipeline.catalogue.probe import PROBES, ProbeCache
from pipeline.planning.estimate import measured_rates
from pipeline.planning.items import ModelFacts
from pipeline.results.carried_columns import CarriedColumns
from pipeline.results.finished_items import finished_items, made_with
from pipeline.results.job_file_reader import read_record
from pipeline.results.reader import REJECTED, RESULTS, ROWS, current_rows, read_results
from pipeline.results.repair import DamageError, check_parts
from pipeline.service.generation_store import GenerationStore
from pipeline.storage.output_store import OutputError, OutputStore
from pipeline.storage.parquet_parts import PartError, encode_parquet, part_names, read_parts, write_part
from pipeline.storage.store import Store, locate, open_store
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
from tests.pipeline.results.damage import (
    DAMAGE,
    FOREIGN,
    Told,
    cut,
    empty,
    flip,
    folder,
    footer,
    job_on,
    other_columns,
    rows_of,
    written,
)
from tests.s3_server import S3Server


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


def test_parts_of_another_folder_of_ours_are_foreign(tmp_path: Path) -> None:
    """Probes are called as results are, and are whole."""
    store, uri = open_store(str(tmp_path)), str(tmp_path / "a.wav")
    soundfile.write(uri, tone(1.0), 48_000)
    ProbeCache(store, "1").of([uri])
    (name,) = part_names(store, PROBES)
    store.write(name.replace(PROBES, RESULTS), store.read(name))
    with pytest.raises(DamageError, match="move it out of the folder results"):
        check_parts(store, repair=True)


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
