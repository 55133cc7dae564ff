"""Every reference vector, at its tolerance, and the replay tool's verdicts."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.parity.cases import Case
from tests.parity.replay import all_cases

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = list(all_cases(GOLDEN))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_reference(case: Case) -> None:
    assert case.difference is not None
    assert case.difference() <= case.tolerance


def test_every_kind_of_vector_is_replayed() -> None:
    kinds = {case.name.split(".")[0] for case in CASES}
    files = {file.stem for file in (GOLDEN / "vectors").iterdir()}
    assert kinds == {name for name in files if not name.endswith("_inputs")}
    assert len(CASES) > 300
    assert all(case.difference for case in CASES)


def test_replay_fails_on_a_wrong_value(tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    shutil.copytree(GOLDEN / "checkpoints", tmp_path / "checkpoints")
    tensors = load_file(GOLDEN / "vectors" / "tok_turbo.safetensors")
    tensors["out_hints"] = tensors["out_hints"] + 1e-3
    save_file(tensors, tmp_path / "vectors" / "tok_turbo.safetensors")
    command = [sys.executable, "-m", "tests.parity.replay", str(tmp_path)]
    replay = subprocess.run(command, capture_output=True, text=True, cwd=GOLDEN.parents[1], check=False)
    lines = {line.split()[0]: line for line in replay.stdout.splitlines() if line.startswith("tok_")}
    assert replay.returncode == 1
    assert lines["tok_turbo.out_hints"].endswith("FAIL")
    assert lines["tok_turbo.out_indices"].endswith("ok")
