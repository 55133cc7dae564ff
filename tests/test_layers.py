"""Imports go one way: jobs -> pipeline -> acestep, and heavy engines stay where they belong."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "acestep": {"ray", "hydra", "omegaconf", "mlflow", "pyarrow", "pipeline", "jobs", "conf"},
    "pipeline": {"hydra", "omegaconf", "jobs", "conf"},
}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_go_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 10
    for file in files:
        assert not imported(file) & FORBIDDEN[package], file


def test_mlflow_is_imported_when_it_is_needed() -> None:
    for file in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "mlflow" not in ast.unparse(node), file
