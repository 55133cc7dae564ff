"""`make test` runs every test that is not slow, once."""

import re
from functools import partial
from itertools import chain, combinations
from pathlib import Path

from _pytest.mark.expression import Expression

ROOT = Path(__file__).parents[1]
CONFIGURATION = (ROOT / "pyproject.toml").read_text()


def commands() -> list[str]:
    """The pytest command lines of `make test`."""
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    return [line.strip() for line in recipe.group(1).splitlines() if "pytest" in line]


def selection(command: str) -> Expression:
    """Of the markers that a command line runs: its own ``-m``, else the default."""
    [default] = re.findall(r"^addopts = .*-m \'([^\']*)\'", CONFIGURATION, re.M)
    own = re.search(r"-m '([^']*)'", command)
    return Expression.compile(own.group(1) if own else default)


def is_among(markers: tuple[str, ...], name: str, **_: object) -> bool:
    return name in markers


def test_no_combination_of_markers_is_left_out() -> None:
    block = re.search(r"^markers = \[\n(.*?)^\]", CONFIGURATION, re.M | re.S)
    assert block is not None
    markers = re.findall(r'"(\w+):', block.group(1))
    assert {"slow", "cluster"} <= set(markers)
    every = chain.from_iterable(combinations(markers, count) for count in range(len(markers) + 1))
    for chosen in every:
        runs = sum(selection(command).evaluate(partial(is_among, chosen)) for command in commands())
        assert runs == ("slow" not in chosen), chosen


def test_no_command_is_confined_to_a_folder() -> None:
    assert len(commands()) == 2
    assert not any(re.search(r"\btests\b", command) for command in commands())
