"""A machine whose folders cannot be used: what could not start ends with 2 and the variable to set."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from acestep.checkpoints import hub
from acestep.errors import RequestError
from jobs import benchmark, restyle
from jobs.exit_status import BROKE_OFF, COULD_NOT_START, exit_on_error
from pipeline.service.config import Access
from pipeline.storage.store import no_empty_folders, open_store
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.printing import plain_console
from tests.miniature import BASE


def main(module: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    """The status of a job in this process."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    with pytest.raises(SystemExit) as left:
        module.main()
    return left.value.code


# A process of its own, since one that has a cluster starts no second one.
STARTS = """
import json, os, sys
from acestep.errors import RequestError
from pipeline.cluster.connection import connect
from pipeline.cluster.spec import ClusterSpec
said = []
for variable, folder in json.loads(sys.argv[1]):
    os.environ.pop("RAY_TMPDIR", None)
    kept = os.environ.get("TMPDIR")
    os.environ[variable] = folder
    try:
        connect(ClusterSpec(address="local", cpus=1, gpus=0))
        said.append("started")
    except RequestError as error:
        said.append(str(error))
    os.environ.pop(variable)
    if kept is not None:
        os.environ["TMPDIR"] = kept
print(json.dumps(said))
"""


def test_a_scratch_folder_that_cannot_be_used_names_the_variable(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    tried = [("TMPDIR", str(folder)), ("RAY_TMPDIR", str(folder)), ("RAY_TMPDIR", "/proc")]
    done = subprocess.run(
        [sys.executable, "-c", STARTS, json.dumps(tried)], capture_output=True, text=True, timeout=300, check=True
    )
    *long, closed = json.loads(done.stdout.splitlines()[-1])
    for said in long:
        assert "set RAY_TMPDIR to a folder with a shorter path" in said
        assert str(folder) in said
    assert "set RAY_TMPDIR to a folder that can be written" in closed


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_hub_cache_that_cannot_be_written_names_the_variable(number: int) -> None:
    assert "set HF_HOME" in hub._why_not("owner/name", OSError(number, os.strerror(number)))
    assert "run again" in hub._why_not("owner/name", OSError(errno.ECONNRESET, "reset"))


def test_a_report_that_cannot_be_written_is_known_before_measuring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(benchmark, monkeypatch, "workload=step", "out=/proc/found.md") == COULD_NOT_START
    assert "name another place with out=" in capsys.readouterr().err


@pytest.mark.parametrize(("begun", "status"), [(False, COULD_NOT_START), (True, BROKE_OFF)])
def test_storage_that_fails_before_the_plan_is_a_job_that_did_not_start(
    begun: bool, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = ConsoleReporter(plain_console())
    reporter.begun = begun
    with pytest.raises(SystemExit) as left, exit_on_error(reporter):
        raise OSError(errno.EROFS, "Read-only file system")
    assert left.value.code == status
    assert ("what is finished is kept" in capsys.readouterr().err) == begun


def test_folders_left_empty_are_removed_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for uri, kept in (("old/a/b", False), ("old/c/d", True), ("old", False)):
        store = open_store(str(tmp_path / uri))
        with no_empty_folders(store):
            store.write(".probe", b"")
            store.delete(".probe")
            if kept:
                store.write("row", b"1")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "old",
        "old/c",
        "old/c/d",
        "old/c/d/row",
    ]


def test_an_empty_root_opens_nothing() -> None:
    for access in ({"roots": ("",)}, {"url_hosts": ("a.org", " ")}):
        with pytest.raises(RequestError, match="holds an empty name"):
            Access(**access)


@pytest.mark.parametrize("wrong", ["model=nosuch", "cover.shift=-1", "manifest=/nowhere.csv"])
def test_a_refused_dry_run_leaves_no_folder(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.csv").write_text("track_id,source,caption\na,a.wav,jazz\n")
    words = [f"manifest={tmp_path}/m.csv", f"output={tmp_path}/new/out", f"model={BASE}", "dry_run=true", wrong]
    assert main(restyle, monkeypatch, *words) == COULD_NOT_START
    assert [file.name for file in tmp_path.iterdir()] == ["m.csv"]
