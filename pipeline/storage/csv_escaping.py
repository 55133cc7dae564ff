"""Text in CSV files that people open in a spreadsheet, where a cell of some first letters is a formula.

An apostrophe before such a cell makes it text, as in the spreadsheet itself; reading takes it away again.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

MARK = "'"
# Also in the wide forms of East Asian scripts; marks before them, so that text with a mark of its own comes back.
_FORMULA = MARK + "*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
_NUMBER = r"[+-]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?"


def cell(text: str) -> str:
    """A text as a cell that is no formula."""
    is_formula = re.match(_FORMULA, text) and not re.fullmatch(_NUMBER, text)
    return MARK + text if is_formula else text


def text_of(cell_text: str) -> str:
    """The text that ``cell`` was given."""
    text = cell_text.removeprefix(MARK)
    return text if text != cell_text and cell(text) == cell_text else cell_text


def as_cells(table: pa.Table) -> pa.Table:
    """A table whose texts and column names are cells that are no formulas."""
    columns = [_cells(column) if pa.types.is_string(column.type) else column for column in table.columns]
    return pa.table(columns, names=[cell(name) for name in table.column_names])


def _cells(column: pa.ChunkedArray) -> pa.ChunkedArray:
    formulas = pc.and_(
        pc.match_substring_regex(column, f"^{_FORMULA}"),
        pc.invert(pc.match_substring_regex(column, f"^(?:{_NUMBER})$")),
    )
    return pc.if_else(formulas, pc.binary_join_element_wise(MARK, column, ""), column)
