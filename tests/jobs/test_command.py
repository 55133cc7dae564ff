"""The command ``restyle``: verbs, help, completion, what it imports, and from where."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

import restyle_command
from jobs.command import COMPLETION, VERBS, completions, run
from jobs.help import describe, keys_of
from jobs.schema import JOBS, MEANING

ROOT = Path(restyle_command.__file__).parent
HEAVY = {
    "torch",
    "transformers",
    "scipy",
    "matplotlib",
    "mlflow",
    "ray",
    "pandas",
    "fastapi",
    "gradio",
    "torchaudio",
}
# Runs command lines one after the other, and prints the status of each and the modules that are imported then.
IMPORTS = """
import json, sys
from jobs.command import run
statuses = []
for words in json.loads(sys.argv[1]):
    try:
        run(words)
    except SystemExit as left:
        statuses.append(left.code)
print(json.dumps([statuses, sorted(sys.modules)]))
"""


def printed(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """Status, standard output and standard error of a command line."""
    with pytest.raises(SystemExit) as left:
        run(words)
    return left.value.code, *capsys.readouterr()


def started(code: Sequence[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of Python in a folder."""
    return subprocess.run(
        [sys.executable, *code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_nothing_heavy_is_imported_before_there_is_work(tmp_path: Path) -> None:
    lines = {
        ("--help",): 0,
        ("run", "--help"): 0,
        ("select",): 2,
        ("run", "outptu=x"): 2,
        ("tune", "manifest=m.csv"): 2,
        ("serve", "cluster.wrokers=1", "model=demo"): 2,
        ("fetch", "list=true"): 0,
    }
    done = started(["-c", IMPORTS, json.dumps([*lines])], tmp_path, HF_HOME=str(tmp_path))
    statuses, modules = json.loads(done.stdout.splitlines()[-1])
    assert statuses == [*lines.values()]
    assert not HEAVY.intersection(modules)
    assert "did you mean cluster.workers?" in done.stderr


def test_help_lists_each_verb_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--help",), ("-h",)):
        status, said, _ = printed(words, capsys)
        lines = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith("  ")}
        assert status == 0
        assert [*lines] == [*VERBS]
        assert all(len(sentence) >= 3 for sentence in lines.values())


def test_every_job_has_a_verb() -> None:
    assert sorted(VERBS.values()) == sorted(JOBS)


def test_the_version_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--version"], ["run", "--version"]):
        assert printed(words, capsys) == (0, f"restyle {version('restyle')}\n", "")


@pytest.mark.parametrize(
    ("verb", "near"), [("rnu", "run"), ("train_demo", "train-demo"), ("x=1", "one of run, serve")]
)
def test_a_mistyped_verb_names_the_nearest(verb: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, said = printed([verb], capsys)
    assert status == 2
    assert near in said


@pytest.mark.parametrize("job", JOBS)
def test_help_gives_each_key_its_default_and_its_meaning(job: str) -> None:
    said = " ".join(describe(job, "About.").split())
    for key, _, declared in keys_of(JOBS[job]):
        meaning = declared.metadata[MEANING]
        assert meaning, key
        if not key.startswith("grid."):
            assert f" {key}=" in said
            assert " ".join(meaning.replace("`", "").replace("None", "null").split()) in said.replace("`", "")


def test_help_of_a_verb_is_the_help_of_its_module(capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = printed(["compare", "--help"], capsys)
    assert status == 0
    assert said.startswith("Compare the settings of a finished folder")
    assert "listen_tracks=6" in said


def test_completions() -> None:
    assert completions("restyle se") == ["serve", "select"]
    assert completions("restyle run man") == ["manifest=", "manifest_columns="]
    assert completions("restyle run manifest=m.csv cover.audio") == ["cover.audio_cover_strength="]
    assert completions("restyle run cluster=l") == ["cluster=local"]
    assert completions("restyle run preset=pop") == ["preset=pop_to_jazz"]
    assert completions("restyle run dry_run=") == ["dry_run=true", "dry_run=false"]
    assert completions("restyle run manifest=") == completions("restyle nothing x") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(tmp_path: Path) -> None:
    """As bash calls it, with ``=`` among the characters that part words."""
    command = tmp_path / "restyle"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m restyle_command "$@"\n')
    command.chmod(0o755)
    (tmp_path / "completion").write_text(COMPLETION)
    code = """
        source completion; compopt() { :; }
        COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
        for COMP_LINE in "restyle ru" "restyle run metrics=" "restyle select exp"; do
            COMP_POINT=${#COMP_LINE}; COMP_WORDS=(./restyle); COMPREPLY=(); _restyle; echo "${COMPREPLY[*]}"
        done
    """
    done = subprocess.run(
        ["bash", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines() == ["run", "all default off", "export="]


def test_a_folder_with_packages_of_our_names_is_told(tmp_path: Path) -> None:
    for name in ("jobs", "pipeline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    ours = ["-P", "-c", "import restyle_command; restyle_command.main()", "--version"]  # as an installed script
    assert started(ours, tmp_path).returncode == 0
    foreign = started(ours, ROOT, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    (tmp_path / "jobs" / "__init__.py").unlink()
    module = started(["-m", "jobs.compare", "--help"], tmp_path)
    assert (foreign.returncode, module.returncode) == (2, 2)
    assert f"jobs is imported from {tmp_path / 'jobs'}" in foreign.stderr
    assert f"pipeline is imported from {tmp_path / 'pipeline'}" in module.stderr
