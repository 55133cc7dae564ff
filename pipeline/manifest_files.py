"""The rows of a manifest file, whatever its kind, streamed: a catalogue may be larger than memory."""

import difflib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyarrow import fs

from acestep.errors import RestyleError
from acestep.setting import SETTING_FIELDS
from pipeline.own_columns import KEEP, OPTION, absent, is_declared, misspelt, undeclarable
from pipeline.spelling import MissingFileError, spelled
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


class ColumnsError(ManifestError):
    """Columns that cannot be used.

    unknown: each with the known column that it may mean; missing: required ones.
    """

    def __init__(self, message: str, unknown: Mapping[str, str | None], missing: Sequence[str]):
        super().__init__(message)
        self.unknown, self.missing = unknown, missing


def rows_of(uri: str, check: Check) -> Rows:
    """The rows of a ``.parquet``, ``.csv`` or ``.jsonl`` file, streamed.

    Args:
        check: refuses wrong columns, such as ``check_columns``.

    Raises:
        ManifestError: the file cannot be read or is empty, or ``check`` refuses its columns.
    """
    try:
        filesystem, path = locate(spelled(uri))
    except (MissingFileError, OSError) as error:
        raise ManifestError(f"{uri}: cannot be read ({error})") from error
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


def check_columns(
    names: Sequence[str],
    where: str,
    complete: bool = True,
    needs_caption: bool = True,
    own: Sequence[str] = (),
) -> None:
    """Refuse columns of a manifest that nothing would read, and (``complete``) the absence of required ones.

    A caption is not required where a preset gives one, by the job or by the columns of the two genres.

    Args:
        own: the user's own columns, as ``pipeline.own_columns.parse_declared`` gives them.

    Raises:
        ColumnsError: see ``refuse_columns``.
    """
    given = {"source_genre", "target_genre"} <= set(names) or not needs_caption
    required = [name for name in REQUIRED if not (name == "caption" and given)]
    refuse_columns(names, where, COLUMNS, required, complete, own)


def refuse_columns(
    names: Sequence[str],
    where: str,
    known: Sequence[str],
    required: Sequence[str],
    complete: bool = True,
    own: Sequence[str] = (),
) -> None:
    """Refuse columns that are neither known nor the user's own, and (``complete``) the absence of required ones.

    Raises:
        ColumnsError: naming every such column and the known one that is nearest.
    """
    unknown = {
        name: misspelt(name, tuple(known)) or next(iter(difflib.get_close_matches(name, known, 1)), None)
        for name in names
        if name not in known and not is_declared(name, own, known)
    }
    missing = [name for name in required if name not in names] if complete else []
    problems = [
        f"unknown column {name!r}; did you mean {near!r}?" if near else f"unknown column {name!r}."
        for name, near in unknown.items()
    ]
    if unknown:
        problems.append(f"{OPTION}={KEEP} carries columns of your own. Known columns: {', '.join(known)}")
    if missing:
        problems.append(f"has no column {', '.join(map(repr, missing))}; every row needs one")
    clash = undeclarable(names, known)
    if clash:
        problems.append(clash)
    lost = absent(own, names) if complete else []
    if lost:
        problems.append(f"has no column {', '.join(map(repr, lost))}, which {OPTION} names")
    if problems:
        raise ColumnsError(f"{where}: {' '.join(problems)}", unknown, missing)
