"""Escape CSV cells that a spreadsheet would evaluate as formulas.

A leading apostrophe marks such a cell as text, as in the spreadsheet itself; ``text_of`` removes it again.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

MARK = "'"
# Full-width forms count too. Leading apostrophes are part of the pattern, which makes the escaping reversible.
_FORMULA = MARK + "*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
_NUMBER = r"[+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?"


def cell(text: str) -> str:
    """Escape a text."""
    is_formula = re.match(_FORMULA, text) and not re.fullmatch(_NUMBER, text)
    return MARK + text if is_formula else text


def text_of(cell_text: str) -> str:
    """Undo ``cell``."""
    text = cell_text.removeprefix(MARK)
    return text if text != cell_text and cell(text) == cell_text else cell_text


def as_cells(table: pa.Table) -> pa.Table:
    """Escape all string columns and column names of a table."""
    columns = [_cells(column) if pa.types.is_string(column.type) else column for column in table.columns]
    return pa.table(columns, names=[cell(name) for name in table.column_names])


def _cells(column: pa.ChunkedArray) -> pa.ChunkedArray:
    formulas = pc.and_(
        pc.match_substring_regex(column, f"^{_FORMULA}"),
        pc.invert(pc.match_substring_regex(column, f"^(?:{_NUMBER})$")),
    )
    return pc.if_else(formulas, pc.binary_join_element_wise(MARK, column, ""), column)
