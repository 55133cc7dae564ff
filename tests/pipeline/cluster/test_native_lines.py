"""Known lines of Ray's core are not shown; every other line is, whatever becomes of the process."""

import os
import subprocess
import sys

import pytest

from pipeline.cluster.native_lines import drop_known_lines

LINE = (
    "[2026-11-28 05:08:43,236 E 17642 17642] core_worker.cc:2465: Actor with class name: 'MapWorker(MapBatches("
    "RestyleWorker))' and ID: '5783' has constructor arguments in the object store and max_restarts > 0. If the "
    "arguments in the object store go out of scope or are lost, the actor restart will fail.\n"
)
OTHER = LINE.replace("max_restarts > 0", "max_restarts > 1")


def test_known_lines_are_dropped_and_others_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with drop_known_lines():
        for line in (LINE, OTHER, "E core_worker.cc:1: lost\n", LINE, "no end"):
            os.write(2, line.encode())
        subprocess.run([sys.executable, "-S", "-c", "import os; os.write(2, b' of a child\\n')"], check=True)
    os.write(2, LINE.encode())
    assert capfd.readouterr().err == f"{OTHER}E core_worker.cc:1: lost\nno end of a child\n{LINE}"


def test_an_error_inside_passes_and_gives_the_stream_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="inside"), drop_known_lines():
        raise ValueError("inside")
    print("after", file=sys.stderr)
    assert capfd.readouterr().err == "after\n"


def test_the_last_words_of_a_process_that_aborts_arrive() -> None:
    code = (
        "import os\nfrom pipeline.cluster.native_lines import drop_known_lines\n"
        f"with drop_known_lines():\n    os.write(2, {LINE!r}.encode() + b'last words\\n')\n    os.abort()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode < 0
    assert done.stderr == "last words\n"


def test_where_no_process_can_be_started_all_lines_are_shown(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with drop_known_lines():
        os.write(2, LINE.encode())
    assert capfd.readouterr().err == LINE
