"""Stream the rows of a Parquet manifest without loss of precision."""

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.catalogue.text_manifest import ManifestError, RawRow

BATCH_ROWS = 8192
OUT_OF_RANGE = "<value out of range"  # Arrow's text for a date that it cannot format


def refuse_bytes(schema: pa.Schema, names: list[str], uri: str, known: Collection[str]) -> None:
    """Refuse the user's own columns that hold bytes, such as cover images.

    Raises:
        ManifestError: there are such columns.
    """
    binary = [name for name in names if name not in known and _holds_bytes(schema.field(name).type)]
    if binary:
        remedy = f"write the file without it (pandas: frame.drop(columns={binary!r}))"
        reason = f"{', '.join(map(repr, binary))} holds bytes, and only text and numbers can be carried"
        raise ManifestError("unreadable_manifest", reason, remedy, where=uri)


def parquet_rows(file: pq.ParquetFile, names: list[str], uri: str, known: Collection[str]) -> Iterator[RawRow]:
    """Yield the rows of a Parquet file.

    Floats of 16 and 32 bits stay NumPy scalars, which print with their own precision. Dates and times in the
    user's own columns become ISO 8601 text with the file's precision.

    Args:
        known: columns that a job reads; the others are the user's own.

    Raises:
        ManifestError: a value cannot be read.
    """
    number = 0
    for batch in file.iter_batches(BATCH_ROWS, columns=names):
        columns = [_values(name, batch.column(name), uri, name not in known) for name in names]
        for values in zip(*columns, strict=True):
            number += 1
            yield RawRow(number, dict(zip(names, values, strict=True)))


def _values(name: str, column: pa.Array, uri: str, own: bool) -> list[Any]:
    kind = column.type
    try:
        if own and (pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind)):
            return _iso_8601(column).to_pylist()
        if pa.types.is_float32(kind) or pa.types.is_float16(kind):
            numbers = column.to_numpy(zero_copy_only=False)
            return [
                number if valid else None
                for number, valid in zip(numbers, column.is_valid().to_pylist(), strict=True)
            ]
        return column.to_pylist()
    except (pa.ArrowException, ValueError, ArithmeticError, LookupError) as error:
        remedy = "write it as text in UTF-8"
        reason = f"column {name!r} ({kind}) cannot be read ({error})"
        raise ManifestError("unreadable_manifest", reason, remedy, where=uri) from error


def _iso_8601(column: pa.Array) -> pa.Array:
    text = column.cast(pa.string())
    for value in text.filter(pc.starts_with(text, OUT_OF_RANGE)).slice(0, 1):
        raise ValueError(value.as_py().strip("<>"))
    text = pc.replace_substring_regex(text, r"\.0+($|[^0-9])", r"\1")
    if pa.types.is_timestamp(column.type):
        text = pc.replace_substring(text, " ", "T", max_replacements=1)
        if column.type.tz is not None:
            text = pc.replace_substring_regex(text, r"([+-]\d\d)(\d\d)$", r"\1:\2")
            text = pc.replace_substring_regex(text, "Z$", "+00:00")
    return text


def _holds_bytes(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.UuidType):
        return False
    if isinstance(kind, pa.BaseExtensionType):
        return _holds_bytes(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return pa.types.is_binary_view(kind) or any(_holds_bytes(kind.field(k).type) for k in range(kind.num_fields))
