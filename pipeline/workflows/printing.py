"""Plain text on a console: without emoji codes, markup, or truncation at the width of the terminal."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console


def plain_console(stderr: bool = False) -> Console:
    """A console that prints text unchanged, without wrapping lines."""
    return Console(stderr=stderr, emoji=False, markup=False, highlight=False, soft_wrap=True)


def table_lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines: the first and last column left-aligned, the others right-aligned."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        pads = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        numbers = (pad + cell for pad, cell in zip(pads[1:-1], row[1:-1], strict=True))
        yield "  ".join([row[0] + pads[0], *numbers, row[-1]]).rstrip()
