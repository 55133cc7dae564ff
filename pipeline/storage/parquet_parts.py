"""Part files: the Parquet files of a folder, written atomically and verified when read.

The name of a part ends in the CRC-32 of its bytes, because Parquet's page checksums do not cover the footer. Parts
of earlier versions have no checksum. Files with other names are read as well if they have the right columns.
"""

import io
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from acestep.errors import RestyleError
from pipeline.storage.store import Store

SUFFIX = ".parquet"
ASIDE = ".damaged"
READERS = 8
AT_ONCE = 32  # parts in memory at a time
# The launch matches lazily, because a checksum of decimal digits also looks like a part number.
_WRITTEN = re.compile(r"part-(.+?)-(\d{5,})(?:-([0-9a-f]{8}))?\.parquet")
# What pyarrow raises for unreadable bytes; some errors are plain OSError or ValueError.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError)


@dataclass(frozen=True)
class PartFormat:
    """Schema of a folder's parts; a missing column that is not ``required`` reads as null."""

    schema: pa.Schema
    required: tuple[str, ...]


class PartError(RestyleError):
    """A file in a folder of parts that cannot be used.

    name: relative to the store.
    is_damaged: the file is a damaged part, which ``set_aside`` can move away; otherwise it is a foreign or
        unreadable file.
    """

    def __init__(self, store: Store, name: str, cause: str, is_damaged: bool = False, remedy: str = ""):
        folder = name.rpartition("/")[0]
        remedy = remedy or (
            f"run the job that writes this folder with repair=true: the file is moved to {folder}/{ASIDE}, and "
            "its covers are found by their audio files or made again"
            if is_damaged
            else f"move it out of the folder {folder}"
        )
        state = "is damaged" if is_damaged else "cannot be used"
        kind = "damaged_file" if is_damaged else "foreign_file"
        super().__init__(kind, f"{store.path(name)} {state} ({cause})", remedy)
        self.name, self.cause, self.is_damaged = name, cause, is_damaged


def encode_parquet(table: pa.Table) -> bytes:
    """Encode a table with page checksums, for readers that do not check the file name."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def write_part(store: Store, folder: str, launch: str, number: int, table: pa.Table) -> str:
    """Write a part and return its name; names sort by launch and number."""
    content = encode_parquet(table)
    name = f"{folder}/part-{launch}-{number:05d}-{zlib.crc32(content):08x}{SUFFIX}"
    store.write(name, content)
    return name


def replace_part(store: Store, name: str, table: pa.Table) -> str | None:
    """Replace the rows of a part, keeping its position; return the new name, or None if ``table`` is empty."""
    folder, _, own = name.rpartition("/")
    written, new = _WRITTEN.fullmatch(own), None
    if len(table) and written:
        new = write_part(store, folder, written[1], int(written[2]), table)
    elif len(table):
        store.write(name, encode_parquet(table))
        new = name
    if new != name:
        store.delete(name)
    return new


def part_names(store: Store, folder: str) -> list[str]:
    """Sorted names of the visible ``.parquet`` files in a folder."""
    names = [name for name in _entries(store, folder) if name.endswith(SUFFIX) and not name.startswith(".")]
    return [f"{folder}/{name}" for name in sorted(names)]


def read_parts(
    store: Store, names: Sequence[str], form: PartFormat, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of each part in the order of ``names``.

    Args:
        columns: columns to read; None reads all.

    Raises:
        PartError: a part cannot be used.
    """
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            yield from pool.map(lambda name: read_part(store, name, form, columns), some)


def read_part(store: Store, name: str, form: PartFormat, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one part in the schema of ``form``; arguments and errors as in ``read_parts``."""
    content, checksum = _content(store, name), _checksum_of(name)
    is_ours = checksum is not None
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        present = file.schema_arrow.names
    except _UNREADABLE as error:
        reason = f"not a whole Parquet file: {_line(error)}" if content else "0 bytes"
        raise PartError(store, name, reason, is_damaged=is_ours) from error
    known = set(form.schema.names)
    foreign = [column for column in present if column not in known]
    if 2 * len(foreign) > len(present):
        raise PartError(store, name, f"it has other columns, such as {foreign[0]!r}")
    if checksum and checksum != f"{zlib.crc32(content):08x}":
        raise PartError(store, name, "its bytes do not match the checksum in its name", is_damaged=True)
    missing = [column for column in form.required if column not in present]
    if missing:
        raise PartError(store, name, f"it has no column {missing[0]!r}")
    fields = [form.schema.field(column) for column in columns or form.schema.names]
    try:
        found = file.read([field.name for field in fields if field.name in present], use_threads=False)
        if not checksum:
            found.validate(full=True)
        return conform_schema(found, pa.schema(fields))
    except _UNREADABLE as error:
        raise PartError(store, name, _line(error), is_damaged=is_ours) from error


def conform_schema(found: pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast a table to a schema; missing columns become null.

    Raises:
        pyarrow.ArrowInvalid: a column cannot be cast.
    """
    if found.schema.equals(schema):
        return found
    columns = [
        found[field.name].cast(field.type)
        if field.name in found.column_names
        else pa.chunked_array([pa.nulls(len(found), field.type)])
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def find_faults(store: Store, folder: str, form: PartFormat) -> list[PartError]:
    """Verify every part of a folder and return the errors."""

    def fault(name: str) -> PartError | None:
        try:
            # With a checksum, reading a few columns verifies the whole file.
            read_part(store, name, form, form.required if _checksum_of(name) else None)
        except PartError as error:
            return error
        return None

    with ThreadPoolExecutor(READERS) as pool:
        return [found for found in pool.map(fault, part_names(store, folder)) if found is not None]


def set_aside(store: Store, name: str) -> str:
    """Move a file to the ``.damaged`` subfolder and return its new name."""
    folder, _, own = name.rpartition("/")
    aside = f"{folder}/{ASIDE}/{own}"
    store.move(name, aside)
    return aside


def _checksum_of(name: str) -> str | None:
    """The checksum in a part's name, "" if it has none; None if the name is not a part's."""
    written = _WRITTEN.fullmatch(name.rpartition("/")[2])
    return written and (written[3] or "")


def _entries(store: Store, folder: str) -> list[str]:
    """Names in a folder including broken links, which pyarrow omits."""
    if not store.is_local:
        return [info.base_name for info in store.entries(folder)]
    try:
        return store.retrying(lambda: os.listdir(store.path(folder)))
    except FileNotFoundError:
        return []


def _content(store: Store, name: str) -> bytes:
    try:
        return store.read(name)
    except OSError as error:
        if not store.is_local and not isinstance(error, FileNotFoundError):
            raise
        remedy = f"make it readable, or move it out of the folder {name.rpartition('/')[0]}"
        if isinstance(error, FileNotFoundError) and not (store.is_local and os.path.islink(store.path(name))):
            remedy = "a launch replaced it while the folder was read: give the same command again"
        raise PartError(store, name, f"it cannot be read: {error.strerror or error}", remedy=remedy) from error


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
