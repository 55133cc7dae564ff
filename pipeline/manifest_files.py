"""The rows of a manifest file, whatever its kind, streamed: a catalogue may be larger than memory."""

import difflib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyarrow import fs

from acestep.errors import RestyleError
from acestep.setting import SETTING_FIELDS
from pipeline.storage import locate

REQUIRED = ("track_id", "source", "caption")
OPTIONAL = (
    "lyrics",
    "language",
    "bpm",
    "keyscale",
    "timesignature",
    "reference_audio",
    "source_genre",
    "target_genre",
)
OVERRIDES = (*SETTING_FIELDS, "seed")
COLUMNS = (*REQUIRED, *OPTIONAL, *OVERRIDES)
BATCH_ROWS = 8192
Rows = Iterator[dict[str, Any]]
# Refuses wrong columns, given their names, where they stand, and whether all columns are among them.
Check = Callable[[Sequence[str], str, bool], None]


class ManifestError(RestyleError):
    """The manifest as a whole cannot be used."""


def rows_of(uri: str, check: Check) -> Rows:
    """The rows of a ``.parquet``, ``.csv`` or ``.jsonl`` file, streamed.

    Args:
        check: refuses wrong columns, such as ``check_columns``.

    Raises:
        ManifestError: the file cannot be read or is empty, or ``check`` refuses its columns.
    """
    filesystem, path = locate(uri)
    readers = {"parquet": _parquet_rows, "csv": _csv_rows, "jsonl": _json_rows}
    kind = path.rsplit(".", 1)[-1].lower()
    if kind not in readers:
        raise ManifestError(f"{uri}: unknown kind of manifest; give a .parquet, .csv or .jsonl file")
    try:
        if filesystem.get_file_info(path).size == 0:
            raise ManifestError(f"{uri}: empty file (0 bytes)")
        yield from readers[kind](filesystem, path, uri, check)
    except (OSError, pa.ArrowException) as error:
        how = f"not readable as {kind}" if isinstance(error, pa.ArrowException) else "cannot be read"
        raise ManifestError(f"{uri}: {how} ({error})") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{uri}: not readable as {kind} ({error})") from error


def _parquet_rows(filesystem: fs.FileSystem, path: str, uri: str, check: Check) -> Rows:
    with filesystem.open_input_file(path) as stream:
        file = pq.ParquetFile(stream)
        check(file.schema_arrow.names, uri, True)
        for batch in file.iter_batches(BATCH_ROWS):
            yield from batch.to_pylist()


def _csv_rows(filesystem: fs.FileSystem, path: str, uri: str, check: Check) -> Rows:
    with filesystem.open_input_stream(path) as stream:
        header = pyarrow.csv.open_csv(stream).schema.names
    check(header, uri, True)
    # Every column is read as text: type inference would make the number 1 of the track_id 001.
    options = pyarrow.csv.ConvertOptions(
        column_types={name: pa.string() for name in header}, strings_can_be_null=False
    )
    parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with filesystem.open_input_stream(path) as stream:
        for batch in pyarrow.csv.open_csv(stream, parse_options=parsing, convert_options=options):
            yield from batch.to_pylist()


def _json_rows(filesystem: fs.FileSystem, path: str, uri: str, check: Check) -> Rows:
    with filesystem.open_input_stream(path) as stream:
        for number, line in enumerate(io.TextIOWrapper(stream, encoding="utf-8-sig"), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ManifestError(f"{uri}: line {number} is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise ManifestError(f"{uri}: line {number} is a {type(row).__name__}, expected an object")
            check(list(row), f"{uri}: line {number}", False)
            yield row


def check_columns(names: Sequence[str], where: str, complete: bool = True, needs_caption: bool = True) -> None:
    """Refuse columns of a manifest that nothing would read, and (``complete``) the absence of required ones.

    A caption is not required where a preset gives one, by the job or by the columns of the two genres.

    Raises:
        ManifestError: naming the column and the nearest known one.
    """
    given = {"source_genre", "target_genre"} <= set(names) or not needs_caption
    required = [name for name in REQUIRED if not (name == "caption" and given)]
    refuse_columns(names, where, COLUMNS, required if complete else ())


def refuse_columns(names: Sequence[str], where: str, known: Sequence[str], required: Sequence[str]) -> None:
    """Refuse columns that are not known, and the absence of required ones.

    Raises:
        ManifestError: naming the column and the nearest known one.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ManifestError(f"{where}: unknown column {name!r}{hint} Known columns: {', '.join(known)}")
    missing = [name for name in required if name not in names]
    if missing:
        raise ManifestError(f"{where}: has no column {', '.join(map(repr, missing))}; every row needs one")
