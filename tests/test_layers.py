"""Each package imports only packages below it, and heavy engines stay where they belong."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP = ("acestep", "pipeline", "conf", "jobs")
# Bottom to top: a module imports from its own row and those before it, also lazily and for types.
LAYERS = """
acestep.constants
acestep.redaction
acestep.error_kinds
acestep.errors
acestep.runtime
acestep.parameters
acestep.audio
acestep.model
acestep.checkpoints
acestep.language
acestep.sampling
acestep.handler
acestep.generation
acestep.inference
acestep.fetch
pipeline.storage
pipeline.cluster
pipeline.catalogue
pipeline.metrics
pipeline.results
pipeline.planning
pipeline.worker
pipeline.evaluation
pipeline.report
pipeline.tracking
pipeline.workflows
pipeline.service
pipeline.service.page
pipeline.service.deployment
pipeline.benchmark
pipeline.demo_catalogue
pipeline.demo_model
conf
jobs
""".split()
FORBIDDEN = {
    "acestep": {"ray", "hydra", "omegaconf", "mlflow", "pyarrow"},
    "pipeline": {"hydra", "omegaconf"},
}
MAX_TOP_LEVEL_FILES = 8


def module_files() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    files = (file for top in ("acestep", "pipeline", "conf", "jobs") for file in (ROOT / top).rglob("*.py"))
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files
    }


MODULES = module_files()


def imported(file: Path) -> set[str]:
    """Dotted names that a file imports anywhere in it: modules, and names in modules."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def row(name: str) -> int:
    """The row of the innermost entry of ``LAYERS`` that holds a dotted name; -1 where none does."""
    found = [layer for layer in LAYERS if f"{name}.".startswith(f"{layer}.")]
    return LAYERS.index(max(found, key=len)) if found else -1


def test_every_module_has_a_row() -> None:
    assert {name for name in MODULES if row(name) < 0} == {"acestep", "pipeline"}


def test_imports_point_to_the_same_row_or_a_lower_one() -> None:
    upward = [
        f"{name} imports {target}"
        for name, file in MODULES.items()
        for target in imported(file)
        if row(target) > row(name)
    ]
    assert not upward


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_heavy_engines_stay_where_they_belong(package: str) -> None:
    files = [file for name, file in MODULES.items() if name.split(".")[0] == package]
    assert len(files) > 10
    for file in files:
        assert not {name.split(".")[0] for name in imported(file)} & FORBIDDEN[package], file


@pytest.mark.parametrize("package", ["acestep", "pipeline"])
def test_modules_lie_in_packages(package: str) -> None:
    assert len(list((ROOT / package).glob("*.py"))) <= MAX_TOP_LEVEL_FILES
    for folder in {file.parent for name, file in MODULES.items() if name.startswith(f"{package}.")}:
        tree = ast.parse((folder / "__init__.py").read_text())
        assert ast.get_docstring(tree), f"{folder} does not say what it holds"


def test_mlflow_is_imported_when_it_is_needed() -> None:
    for file in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "mlflow" not in ast.unparse(node), file
