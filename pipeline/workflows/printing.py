"""Text on a console as it is: no emoji codes, no markup, and no number cut off by the width of a terminal."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console


def plain_console(stderr: bool = False) -> Console:
    """A console that prints text unchanged; a line longer than the terminal is wrapped by the terminal alone."""
    return Console(stderr=stderr, emoji=False, markup=False, highlight=False, soft_wrap=True)


def table_lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines: the first and the last column, which hold words, to the left, the others to the right."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        pads = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        numbers = (pad + cell for pad, cell in zip(pads[1:-1], row[1:-1], strict=True))
        yield "  ".join([row[0] + pads[0], *numbers, row[-1]]).rstrip()
