"""The user's own manifest columns, carried through to the results for joins with a catalogue.

Plans and result rows hold them as text in one map column ``meta``, so the schema does not depend on the manifest.
Exported tables (``winners.csv``, the comparison's ``covers.parquet``) have one column ``meta.<name>`` for each.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, time
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acestep.errors import RequestError
from acestep.parameters.values import composed
from pipeline.storage.similar_files import alphanumerics

META = "meta"
META_TYPE = pa.map_(pa.string(), pa.string())
_ENTRIES = pa.list_(pa.struct([pa.field("key", pa.string(), nullable=False), ("value", pa.string())]))
OPTION = "manifest_columns"
KEEP = "keep"
EVERY = ("*",)
MAX_NAMED = 8
LONG_NAME = 10  # letters from which two edits count as a misspelling instead of one


def parse_declared(value: Any) -> tuple[str, ...]:
    """Parse the configuration key ``manifest_columns``.

    Args:
        value: None, ``keep`` for every column, or a list of names and patterns with ``*`` and ``?``.

    Raises:
        RequestError: the value has another type.
    """
    if value is None:
        return ()
    if value == KEEP:
        return EVERY
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name.strip() for name in names):
        remedy = f"use {OPTION}={KEEP} or {OPTION}=[title,isrc]"
        raise RequestError("wrong_type", "is not a list of names", remedy, OPTION, value)
    return tuple(composed(name) for name in names)


def is_declared(name: str, declared: Sequence[str], known: Collection[str]) -> bool:
    """Whether a column is declared as the user's own.

    A pattern does not match a misspelling of a known column; such a column must be declared by name.
    """
    name = composed(name)
    if name in declared:
        return True
    covered = any(fnmatchcase(name, pattern) for pattern in declared)
    return covered and misspelt(name, tuple(known)) is None


def absent(declared: Iterable[str], names: Iterable[str]) -> list[str]:
    """Declared names (not patterns) without a column."""
    present = set(map(composed, names))
    return [name for name in declared if name not in present and not set(name) & set("*?[")]


def how_to_declare(unknown: Iterable[str], declared: Sequence[str], known: Sequence[str]) -> str:
    """Error message part: how to declare unknown columns."""
    names = [*declared, *unknown]
    if len(names) > MAX_NAMED or not all(re.fullmatch(r"[^\"'$\\`,\[\]{}]+", name) for name in names):
        return f"{OPTION}={KEEP} carries columns of your own."
    listed = ",".join(name if re.fullmatch(r"[\w.*?-]+", name) else f"'{name}'" for name in names)
    keep = "" if any(misspelt(name, tuple(known)) for name in unknown) else f"{OPTION}={KEEP} or "
    return f'If it is your own, {keep}"{OPTION}=[{listed}]" carries it.'


def undeclarable(names: Iterable[str], known: Collection[str]) -> str | None:
    """The reason why a manifest's own columns cannot be carried, or None."""
    columns: dict[str, str] = {}
    for name in names:
        if name in known:
            continue
        if not name.strip() or any("\ud800" <= letter <= "\udfff" for letter in name):
            return f"a column is called {name!r}, which cannot be written; name it, or take it out"
        first = columns.setdefault(column_of(composed(name)), name)
        if first != name:
            return f"columns {first!r} and {name!r} have one name in results ({column_of(name)!r}); rename one"
    return None


@lru_cache(maxsize=4096)
def misspelt(name: str, known: tuple[str, ...]) -> str | None:
    """The known column that a name is a misspelling of, or None."""
    word = alphanumerics(name)
    if not word:
        return None
    distances = {other: _edits(word, alphanumerics(other)) for other in known}
    nearest = min(distances, key=lambda other: distances[other])
    return nearest if distances[nearest] <= (1 if len(word) < LONG_NAME else 2) else None


def own_values(values: Mapping[str, Any], known: Collection[str]) -> dict[str, str]:
    """The own values of a manifest row as text, by column name.

    Text is unchanged; other values are formatted as JSON, whole floats without decimals, dates as ISO 8601.

    Args:
        values: non-empty values of the row, without bytes (``rows_of`` refuses such columns).
    """
    return {composed(name): _text(value) for name, value in values.items() if name not in known}


def column_of(name: str) -> str:
    """Name of an own column in an exported table."""
    return name if name.startswith(f"{META}.") else f"{META}.{name}"


def with_columns_of(table: pa.Table, meta: pa.ChunkedArray | pa.Array) -> pa.Table:
    """Append the columns of ``spread_out(meta)`` to a table."""
    for name, values in spread_out(meta).items():
        table = table.append_column(name, values)
    return table


def spread_out(meta: pa.ChunkedArray | pa.Array) -> dict[str, pa.Array]:
    """Split a map column into one text column per key, sorted; null in rows without the key."""
    maps = meta.combine_chunks() if isinstance(meta, pa.ChunkedArray) else meta
    columns: dict[str, pa.Array] = {}
    for name in sorted(pc.unique(pc.list_flatten(maps.cast(_ENTRIES)).field("key")).to_pylist()):
        values, column = pc.map_lookup(maps, name, "first"), column_of(name)
        # Launches may have declared both "title" and "meta.title".
        columns[column] = pc.coalesce(columns.get(column, values), values)
    return columns


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float | np.floating) and value.is_integer() and abs(float(value)) < 2**53:
        value = int(value)
    if isinstance(value, bool | int | float | list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return _plain(value)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _edits(a: str, b: str) -> int:
    """Damerau-Levenshtein distance (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        older, before, row = before, row, [i]
        for j, other in enumerate(b, start=1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                best = min(best, older[j - 2] + 1)
            row.append(best)
    return row[-1]
