"""Errors as data: what they carry, what is written of them, and the page of their kinds."""

import ast
import pickle
from pathlib import Path

import pytest

from acestep.error_kinds import KINDS, markdown
from acestep.errors import GenerationError, RequestError, RestyleError

ROOT = Path(__file__).parents[2]
SECRET = "http://bob:hunter2@host/?token=hunter2"


def test_the_prose_is_composed_of_the_parts() -> None:
    error = RequestError("out_of_range", "", "leave it out", "bpm", 400, allowed="30..300")
    assert str(error) == "bpm 400 is out of range; allowed: 30..300; leave it out"
    assert str(error.at("row 7")) == f"row 7: {error}"
    assert str(RequestError("unknown_value", field="audio_format", value="exe", allowed=("wav", "mp3"))) == (
        "audio_format 'exe' is unknown; use one of wav, mp3"
    )
    assert str(GenerationError("not_finite", "the output is not finite")) == "the output is not finite"


def test_no_part_tells_a_secret() -> None:
    error = RequestError("invalid_value", SECRET, SECRET, "uri", [SECRET], allowed=SECRET, where=SECRET)
    error = error.at(SECRET)
    assert "hunter2" not in f"{error!r} {error} {vars(error)} {error.args}"
    assert "hunter2" not in str(vars(RequestError("invalid_value", allowed=(SECRET,))))


def test_an_error_arrives_whole_from_another_process() -> None:
    error = RequestError("out_of_range", "", "leave it out", "bpm", 400, allowed="30..300").at("row 7")
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), vars(arrived), str(arrived)) == (type(error), vars(error), str(error))


def test_one_error_says_the_same_as_another_kind() -> None:
    error = RequestError("out_of_range", field="bpm", value=400)
    other = RestyleError.of(error, "invalid_value")
    assert (type(other), other.kind, other.field, other.value) == (RestyleError, "invalid_value", "bpm", 400)
    assert error.kind == "out_of_range"


def test_the_page_of_kinds_is_generated() -> None:
    said = "python -m acestep.error_kinds > docs/errors.md"
    assert (ROOT / "docs" / "errors.md").read_text() == markdown(), said


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_says_what_it_is(name: str) -> None:
    kind = KINDS[name]
    assert kind.meaning.endswith(".")
    assert not kind.remedy.endswith(".")
    assert kind.status is None or 400 <= kind.status < 600


def test_every_error_is_raised_with_a_declared_kind() -> None:
    files = [file for top in ("acestep", "pipeline", "jobs") for file in (ROOT / top).rglob("*.py")]
    trees = {file: ast.parse(file.read_text()) for file in files}
    bases: dict[str, list[str]] = {}
    own_form: set[str] = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base) for base in node.bases]
                forms = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
                own_form |= {node.name} if "__init__" in forms and node.name != "ProblemError" else set()

    def is_ours(name: str) -> bool:
        return name == "RestyleError" or any(map(is_ours, bases.get(name, ())))

    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if is_ours(node.func.id) and node.func.id not in own_form - {"RestyleError"} and node.args
        if isinstance(node.args[0], ast.JoinedStr)
        or (isinstance(node.args[0], ast.Constant) and node.args[0].value not in KINDS)
    ]
    assert wrong == []
