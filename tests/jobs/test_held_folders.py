"""A job on a folder that another launch holds ends at once, before it has a cluster; a look at it says so."""

import io
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import soundfile
from rich.console import Console

from acestep.sampling.setting import CoverSetting
from pipeline.results.collector import ResultCollector
from pipeline.results.reader import RESULTS, read_results
from pipeline.results.writer import ResultWriter, as_table
from pipeline.storage.lease import HeldError, LeasedStore, LeaseLostError, hold_lease
from pipeline.storage.store import open_store
from pipeline.workflows.compare import compare_folder
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.measure import measure_all
from pipeline.workflows.restyle import run
from pipeline.workflows.select import select_winners
from pipeline.workflows.specs import CompareJob, MeasureJob, RestyleJob, SelectJob, TuneSpec, ValidateSpec
from pipeline.workflows.tune import tune_catalogue
from pipeline.workflows.validate import PartCheck, validate
from tests import miniature
from tests.conftest import tone
from tests.job_command import run_job

ROW = {"item_id": "i", "track_id": "t", "setting_id": "s", "status": "ok", "unmeasured": ["all: silent"]}


def job_on(folder: Path) -> RestyleJob:
    soundfile.write(folder / "a.wav", tone(1.0), 48_000)
    (folder / "m.csv").write_text("track_id,source,caption\na,a.wav,jazz\n")
    cover = asdict(CoverSetting()) | {"seed": 1}
    return RestyleJob(manifest=str(folder / "m.csv"), output=str(folder), cover=cover, model=miniature.BASE)


def reporter() -> ConsoleReporter:
    return ConsoleReporter(Console(file=io.StringIO()))


JOBS: dict[str, Callable[[Path], object]] = {
    "restyle": lambda folder: run(job_on(folder), reporter()),
    "tune": lambda folder: tune_catalogue(job_on(folder), TuneSpec(), reporter(), print),
    "measure": lambda folder: measure_all(MeasureJob(str(folder)), print),
    "measure pairs": lambda folder: measure_all(MeasureJob(str(folder), "pairs.csv"), print),
    "compare": lambda folder: compare_folder(CompareJob(str(folder)), print),
    "select": lambda folder: select_winners(SelectJob(str(folder / "from"), str(folder))),
}


@pytest.mark.parametrize("name", JOBS)
def test_each_job_that_writes_is_refused(tmp_path: Path, name: str) -> None:
    writer = ResultWriter(open_store(f"{tmp_path}/from"), RESULTS)
    writer.add(as_table([ROW]))
    writer.flush()
    with hold_lease(open_store(str(tmp_path)), "out"):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(HeldError, match=f"{tmp_path} is in use by process"):
            JOBS[name](tmp_path)
        assert set(before) == set(tmp_path.iterdir()) - {tmp_path / "a.wav", tmp_path / "m.csv"}


class Checks(list[PartCheck]):
    """What validation has found."""

    checked = list.append

    def looked(self, done: int, total: int) -> None: ...


def test_validation_holds_nothing_and_says_that_somebody_does(tmp_path: Path) -> None:
    job, checks = job_on(tmp_path), Checks()
    with hold_lease(open_store(str(tmp_path)), "out"):
        assert validate(job, ValidateSpec(decode="none"), checks).can_start
    (said,) = [check.said for check in checks if check.name == "output"]
    assert "in use by process" in said
    assert not list(tmp_path.glob(".*"))
    again = Checks()
    validate(job, ValidateSpec(decode="none"), again)
    assert not [check for check in again if "in use" in check.said]


def test_a_service_is_a_launch_too_and_a_dry_run_is_none(tmp_path: Path) -> None:
    output, model = f"output={tmp_path}", f"model={miniature.BASE}"
    with hold_lease(open_store(str(tmp_path)), "out") as held:
        service = run_job("serve", output, model, "page=false")
        dry = run_job("restyle", output, model, f"manifest={job_on(tmp_path).manifest}", "dry_run=true")
    assert (service.returncode, dry.returncode) == (2, 0), service.stderr + dry.stderr
    for said in (service.stderr, dry.stdout):
        found = re.search(r"in use by process (\d+) on (\S+) since 20\S+Z \(python ", said.replace("\n", " "))
        assert found
        assert (int(found[1]), found[2]) == (held.lease.holder.pid, held.lease.holder.host)


def test_rows_are_not_written_under_a_lost_lease(tmp_path: Path) -> None:
    """Neither by a full buffer nor at the end; those that are written stay."""
    with hold_lease(open_store(str(tmp_path)), "out") as held:
        collector = ResultCollector(held)
        collector.add(as_table([ROW]))
        collector.flush()
        assert isinstance(collector.output, LeasedStore)
        held.lease.looked_at = (0.0, 0.0)
        (tmp_path / ".1.lease").rename(tmp_path / ".2.lease")
        collector.results.max_rows = 1
        with pytest.raises(LeaseLostError):
            collector.add(as_table([ROW | {"item_id": "j"}]))
        with pytest.raises(LeaseLostError):
            collector.flush()
        with pytest.raises(LeaseLostError):
            collector.recover_receipts()
    assert read_results(open_store(str(tmp_path)))["item_id"].to_pylist() == ["i"]
