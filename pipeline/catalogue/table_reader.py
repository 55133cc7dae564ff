"""Stream the rows of a manifest file of any format, and check its column names."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from acestep.parameters.values import from_json, is_empty
from acestep.sampling.setting import SETTING_FIELDS
from pipeline.catalogue.own_columns import OPTION, absent, how_to_declare, is_declared, misspelt, undeclarable
from pipeline.catalogue.parquet_manifest import parquet_rows, refuse_bytes
from pipeline.catalogue.text_manifest import Check, ManifestError, RawRow, csv_rows, refuse_repeats, text_lines
from pipeline.storage.similar_files import MissingFileError, resolve_unicode_form
from pipeline.storage.store import locate

REQUIRED = ("track_id", "source", "caption")
OPTIONAL = tuple("lyrics language bpm keyscale timesignature reference_audio source_genre target_genre".split())
OVERRIDES = (*SETTING_FIELDS, "seed")
PROSE = ("track_id", "source", "caption", "lyrics", "flow_edit_source_caption", "flow_edit_source_lyrics")
COLUMNS = (*REQUIRED, *OPTIONAL, *OVERRIDES)
FACTS = frozenset(COLUMNS) - frozenset(PROSE)
# Spellings of missing values. NULL_WORDS are also words, so they count as text in captions and lyrics.
NAN_WORDS = frozenset({"NaN", "nan", "NaT", "<NA>", "#N/A"})
NULL_WORDS = frozenset({"null", "none", "na", "n/a", "\\n"})
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # unnamed index of a pandas frame


class ColumnsError(ManifestError):
    """Columns that cannot be used.

    unknown: unknown columns with the known column that is probably meant.
    missing: missing required columns.
    """

    def __init__(self, message: str, unknown: Mapping[str, str | None], missing: Sequence[str]):
        super().__init__("unknown_field" if unknown else "missing_field", message)
        self.unknown, self.missing = unknown, missing


def rows_of(uri: str, check: Check, known: Collection[str] = COLUMNS) -> Iterator[RawRow]:
    """Yield the non-blank rows of a ``.parquet``, ``.csv``, ``.tsv`` or ``.jsonl`` file.

    Args:
        check: raises for invalid columns, such as ``check_columns``.
        known: columns that a job reads; the others are the user's own.

    Raises:
        ManifestError: the file cannot be read, is empty or has duplicate columns, ``check`` refuses its columns,
        or
            one of the user's own columns cannot be carried.
    """
    try:
        filesystem, path = locate(resolve_unicode_form(uri))
    except (MissingFileError, OSError) as error:
        raise ManifestError("unreadable_manifest", f"cannot be read ({error})", where=uri) from error
    readers = {"parquet": _parquet_rows, "csv": _csv_rows, "tsv": _csv_rows, "jsonl": _json_rows}
    kind = path.rsplit(".", 1)[-1].lower()
    if kind not in readers:
        remedy = "give a .parquet, .csv, .tsv or .jsonl file"
        raise ManifestError("unreadable_manifest", "unknown kind of manifest", remedy, where=uri)
    try:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.Directory:
            remedy = "name one file, which holds all parts"
            raise ManifestError("unreadable_manifest", "is a folder, as Spark writes", remedy, where=uri)
        if info.size == 0:
            raise ManifestError("unreadable_manifest", "empty file (0 bytes)", where=uri)
        for row in readers[kind](filesystem, path, uri, check, known):
            if row.defect or not all(map(_is_blank, row.values.values())):
                yield row
    except (OSError, pa.ArrowException) as error:
        how = f"not readable as {kind}" if isinstance(error, pa.ArrowException) else "cannot be read"
        raise ManifestError("unreadable_manifest", f"{how} ({error})", where=uri) from error
    except UnicodeDecodeError as error:
        reason = f"not readable as {kind} ({error})"
        raise ManifestError("unreadable_manifest", reason, "save it as UTF-8", where=uri) from error


def _parquet_rows(
    filesystem: fs.FileSystem, path: str, uri: str, check: Check, known: Collection[str]
) -> Iterator[RawRow]:
    with filesystem.open_input_file(path) as stream:
        file = pq.ParquetFile(stream)
        names = [name for name in file.schema_arrow.names if not _PANDAS_INDEX.fullmatch(name)]
        refuse_repeats(names, uri)
        refuse_bytes(file.schema_arrow, names, uri, known)
        check(names, uri, True)
        yield from parquet_rows(file, names, uri, known)


def _csv_rows(
    filesystem: fs.FileSystem, path: str, uri: str, check: Check, known: Collection[str]
) -> Iterator[RawRow]:
    return csv_rows(text_lines(filesystem, path, uri), uri, check, known)


def _json_rows(
    filesystem: fs.FileSystem, path: str, uri: str, check: Check, known: Collection[str]
) -> Iterator[RawRow]:
    number = 0
    for line_number, line in enumerate(text_lines(filesystem, path, uri), start=1):
        where = f"{uri}: line {line_number}"
        line = line.lstrip("\ufeff")  # byte order mark of a concatenated file
        if not line.strip():
            continue

        def each_once(pairs: list[tuple[str, Any]], where: str = where) -> dict[str, Any]:
            refuse_repeats([name for name, _ in pairs], where)
            return dict(pairs)

        try:
            values = from_json(line, each_once)
        except ValueError as error:
            remedy = "write one whole object on each line"
            raise ManifestError("unreadable_manifest", f"{where} is not JSON ({error})", remedy) from error
        if not isinstance(values, dict):
            remedy = "write one object on each line"
            reason = f"{where} is a {type(values).__name__}, expected an object"
            raise ManifestError("unreadable_manifest", reason, remedy)
        check(list(values), where, False)
        number += 1
        yield RawRow(number, values)


def filled(
    values: Mapping[str, Any], prose: Collection[str] = PROSE, facts: Collection[str] = FACTS
) -> dict[str, Any]:
    """The non-empty values of a row. Values of the user's own columns are not interpreted.

    Args:
        prose: columns in which "null" or "none" is text.
        facts: columns in which it is a missing value.
    """
    kept = {}
    for name, value in values.items():
        if isinstance(value, str):
            text = value.strip()
            if (
                not text
                or (text in NAN_WORDS and (name in prose or name in facts))
                or (name in facts and text.casefold() in NULL_WORDS)
            ):
                continue
        elif is_empty(value):
            continue
        kept[name] = value
    return kept


def _is_blank(value: Any) -> bool:
    return is_empty(value) or (isinstance(value, str) and value.strip() in NAN_WORDS)


def check_columns(
    names: Sequence[str],
    where: str,
    complete: bool = True,
    needs_caption: bool = True,
    own: Sequence[str] = (),
) -> None:
    """``refuse_columns`` for a manifest. A caption is optional if the job or the genre columns name a preset.

    Args:
        own: the user's own columns, from ``pipeline.catalogue.own_columns.parse_declared``.

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
    """Refuse columns that are neither known nor the user's own and, if ``complete``, missing required columns.

    Raises:
        ColumnsError: lists every such column with the most similar known one.
    """
    unknown = {
        name: misspelt(name, tuple(known))
        for name in names
        if name not in known and not is_declared(name, own, known)
    }
    missing = [name for name in required if name not in names] if complete else []
    problems = [
        f"unknown column {name!r}; did you mean {near!r}?" if near else f"unknown column {name!r}."
        for name, near in unknown.items()
    ]
    if unknown:
        problems.append(f"{how_to_declare(unknown, own, known)} Known columns: {', '.join(known)}")
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
