"""Read text manifests: lines in several encodings, and the CSV dialects of spreadsheets and programs."""

import csv
import io
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pyarrow import fs

from acestep.errors import RestyleError
from pipeline.storage.csv_escaping import MARK, text_of

MAX_LINE_CHARACTERS = 1 << 24  # per line or cell: bounds memory for files without line ends
READ_BYTES = 1 << 20
DELIMITERS = ",;\t|"
BYTE_ORDER_MARK = "\ufeff"
# Binary formats by their first bytes, with the remedy.
_OTHER_FILES = {
    b"PK\x03\x04": "an Excel or zip file; export the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel file; export the sheet as CSV UTF-8",
    b"\x1f\x8b": "compressed by gzip; unpack it",
    b"PAR1": "a Parquet file; call it .parquet",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file with `git lfs pull`",
}
_SEP_LINE = re.compile(r'"?sep=([^"\r\n])"?[,;\t]*\s*', re.IGNORECASE)
_NOT_DECODED = re.compile("[\udc80-\udcff]")
# Raises for invalid columns. Arguments: names, location for messages, whether the list is complete.
Check = Callable[[Sequence[str], str, bool], None]


class ManifestError(RestyleError):
    """The manifest as a whole cannot be used."""


@dataclass(frozen=True)
class RawRow:
    """One row of a file.

    number: counts from 1, without a header line; blank rows count.
    defect: reason why the values are not assigned to the right columns; "" if there is none.
    """

    number: int
    values: dict[str, Any]
    defect: str = ""


def refuse_repeats(names: Sequence[str], where: str) -> None:
    """Refuse duplicate columns or keys.

    Raises:
        ManifestError: there is a duplicate.
    """
    for place, name in enumerate(names):
        if name in names[:place]:
            reason = f"column {name!r} is given twice"
            raise ManifestError("unreadable_manifest", reason, "rename or remove one of them", where=where)


def text_lines(filesystem: fs.FileSystem, path: str, uri: str) -> Iterator[str]:
    """Yield the lines of a file with their line ends. The encoding (UTF-8, -16 or -32) is detected.

    Raises:
        ManifestError: a line is not in that encoding, or is longer than ``MAX_LINE_CHARACTERS``.
    """
    with filesystem.open_input_stream(path) as stream:
        head = stream.read(32)
        for begin, what in _OTHER_FILES.items():
            if head.startswith(begin):
                raise ManifestError("unreadable_manifest", f"is {what}", where=uri)
        encoding = _encoding(head[:4])
    with filesystem.open_input_stream(path, buffer_size=READ_BYTES) as stream:
        text = io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline="")
        number = 0
        while line := text.readline(MAX_LINE_CHARACTERS):
            number += 1
            if len(line) == MAX_LINE_CHARACTERS:
                reason = f"line {number} is longer than {MAX_LINE_CHARACTERS} characters"
                raise ManifestError("unreadable_manifest", reason, "give one row a line", where=uri)
            wrong = None if line.isascii() else _NOT_DECODED.search(line)
            if wrong:
                around = line[max(0, wrong.start() - 20) : wrong.end() + 20].strip()
                guess = around.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
                raise ManifestError(
                    "unreadable_manifest",
                    f"line {number} is not UTF-8 (byte 0x{ord(wrong.group()) - 56320:02X}; in Windows-1252 it "
                    f"would read {guess!r})",
                    "save the file as UTF-8 (in a spreadsheet: 'CSV UTF-8'), or convert it: iconv -f "
                    "WINDOWS-1252 -t UTF-8",
                    where=uri,
                )
            yield line


def _encoding(head: bytes) -> str:
    """Detect the encoding by a byte order mark, or by the zero bytes of a leading ASCII letter."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    zeros = [byte == 0 for byte in head]
    if zeros == [False, True, False, True]:
        return "utf-16-le"
    return "utf-16-be" if zeros == [True, False, True, False] else "utf-8-sig"


def csv_rows(lines: Iterator[str], uri: str, check: Check, known: Collection[str] = ()) -> Iterator[RawRow]:
    """Yield the rows of a CSV file. Values stay text, so a track_id 001 does not become 1.

    Formula escapes are removed, see ``pipeline.storage.csv_escaping``. The delimiter is given by a ``sep=`` line,
    else it is the one that yields the most known columns in the header, then the most columns. Byte order marks at
    the start of rows, which occur in concatenated files, are removed.

    Args:
        known: columns that a job reads.

    Raises:
        ManifestError: ``check`` refuses the columns, a column is unnamed or duplicate, or a quote is not closed.
    """
    skipped, header = 0, ""
    delimiter: str | None = None
    for header in lines:
        told = _SEP_LINE.fullmatch(header)
        if told and delimiter is None:
            delimiter = told.group(1)
        elif header.strip(DELIMITERS + '" \r\n'):
            break
        skipped += 1
    delimiter = delimiter or _delimiter(header, known)
    names = _cells(header, delimiter)
    # A space follows each delimiter, or spaces align the columns.
    loose = delimiter == " " or (len(names) > 1 and all(name.startswith(" ") for name in names[1:]))
    csv.field_size_limit(MAX_LINE_CHARACTERS)
    row_begins = True

    def unmarked() -> Iterator[str]:
        nonlocal row_begins
        for line in chain([header], lines):
            first, row_begins = row_begins, False
            yield line.lstrip(BYTE_ORDER_MARK) if first else line

    reader = csv.reader(unmarked(), delimiter=delimiter, skipinitialspace=loose, strict=True)
    begins = skipped + 1
    try:
        names = [text_of(name.strip()) for name in next(reader)]
        while names and not names[-1]:
            names.pop()
        if "" in names:
            reason = f"column {names.index('') + 1} has no name"
            remedy = "name it or remove it (pandas: to_csv(..., index=False))"
            raise ManifestError("unreadable_manifest", reason, remedy, where=uri)
        refuse_repeats(names, uri)
        check(names, f"{uri} (delimiter {_shown(delimiter)})", True)
        begins, row_begins = skipped + reader.line_num + 1, True
        for number, written in enumerate(reader, start=1):
            cells = [text_of(cell) if cell[:1] == MARK else cell for cell in written]
            yield RawRow(number, dict(zip(names, cells, strict=False)), _defect(cells, names, delimiter, begins))
            begins, row_begins = skipped + reader.line_num + 1, True
    except csv.Error as error:
        raise ManifestError(
            "unreadable_manifest",
            f"the row that begins in line {begins} is not readable as csv ({error})",
            "begin and end a cell that holds quotes or line breaks with a double quote, and double "
            "those within it",
            where=uri,
        ) from error


def _delimiter(header: str, known: Collection[str]) -> str:
    found = {mark: [name.strip() for name in _cells(header, mark)] for mark in DELIMITERS}
    mark = max(DELIMITERS, key=lambda mark: (len(set(found[mark]) & set(known)), len(found[mark])))
    # Names and captions contain spaces too, so a space is the delimiter only as a last resort.
    if len(found[mark]) == 1 and len(set(header.split()) & set(known)) > 1:
        return " "
    return mark


def _shown(delimiter: str) -> str:
    return {"\t": "tab", " ": "space"}.get(delimiter, repr(delimiter))


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), [])


def _defect(cells: list[str], names: list[str], delimiter: str, line: int) -> str:
    """The reason why a row's cells do not match the columns, or "". Extra blank cells are accepted."""
    if len(cells) == len(names):
        if [cell.strip() for cell in cells] != names:
            return ""
        return f"line {line} is the header again; remove it where files were joined"
    beyond = [cell for cell in cells[len(names) :] if cell.strip()]
    if not beyond and (len(cells) >= len(names) or not any(cell.strip() for cell in cells)):
        return ""
    mark = _shown(delimiter)
    said = f"line {line} has {len(cells)} cells (delimiter {mark}) where the header names {len(names)} columns"
    if beyond:
        return f"{said}, the last is {beyond[-1]!r:.80}; put text that holds the delimiter in double quotes"
    return f"{said}; leave no cell out, and put text that holds line breaks in double quotes"
