"""Read a manifest: parse and validate its rows into ``Track`` or ``RejectedRow``.

One row per track, as Parquet, CSV or JSON lines. An invalid row is rejected with a reason; only errors of the
whole file (unreadable, unknown column) stop the job.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from acestep.errors import RequestError, RestyleError
from acestep.language.prompt import Prompt, check_prompt
from acestep.parameters.values import as_text, as_whole_number, check_characters
from acestep.sampling.setting import SETTING_FIELDS, check_seed, parse_values
from pipeline.catalogue.manifest_columns import ManifestColumns
from pipeline.catalogue.own_columns import own_values
from pipeline.catalogue.presets import Preset, for_genres
from pipeline.catalogue.table_reader import (
    COLUMNS,
    OPTIONAL,
    REQUIRED,
    ManifestError,
    filled,
    rows_of,
)
from pipeline.catalogue.track_ids import (
    MAX_ID_BYTES,
    SHORTENED,
    file_name_key,
    is_device,
    names_a_folder,
    track_id_of,
)
from pipeline.storage.read_timeout import DEFAULT_READ_TIMEOUT, ReadTimeout
from pipeline.storage.similar_files import FolderListings
from pipeline.storage.store import absolute

BATCH_ROWS = 2048

TEXTS = tuple(name for name in (*REQUIRED, *OPTIONAL) if name != "bpm")


@dataclass(frozen=True)
class Track:
    """A valid row. ``source`` and ``reference`` are absolute; ``overrides`` replace setting values.

    preset: preset of the row's genres; explicitly set values take precedence over it.
    meta: the user's own columns, see ``pipeline.catalogue.own_columns``; not part of the item's identity.
    """

    track_id: str
    source: str
    prompt: Prompt
    reference: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    preset: Preset | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RejectedRow:
    """An invalid row; ``row`` counts from 1, without a header line."""

    row: int
    track_id: str
    source: str
    caption: str
    kind: str
    message: str
    meta: Mapping[str, str] = field(default_factory=dict)


def read_manifest(
    uri: str,
    presets: Sequence[Preset] = (),
    caption: str = "",
    own: Sequence[str] = (),
    wrong: Callable[[ManifestError], None] | None = None,
    made: Callable[[], Collection[str]] = frozenset,
) -> Iterator[Track | RejectedRow]:
    """Stream and validate the rows of a manifest, which may be larger than memory.

    Args:
        uri: a ``.parquet``, ``.csv`` or ``.jsonl`` file on any filesystem that pyarrow supports. Relative sources
            are relative to its folder.
        presets: presets that ``source_genre`` and ``target_genre`` may name.
        caption: default caption for rows without one and without a preset.
        own: the user's own columns to carry along, from ``pipeline.catalogue.own_columns.parse_declared``.
        wrong: receives errors about columns; reading continues, with misspelt columns under their likely names.
            None raises the error instead.
        made: returns the ids of tracks that already have covers in the output folder. These ids are accepted even
            if they name a Windows device or differ from another id by case alone, as in folders of earlier
            versions.

    Raises:
        ManifestError: the file cannot be read, has no rows, lacks a required column or has an unknown one.
    """
    columns = ManifestColumns(caption, own, wrong)
    first_seen: dict[str, int] = {}
    named: dict[str, str] = {}  # file_name_key -> id, if the two differ
    number = 0
    for raw in rows_of(uri, columns.check):
        number, values = raw.number, filled(columns.renamed(raw.values))
        try:
            if raw.defect:
                raise _RowError("malformed_row", raw.defect)
            track = parse_track(values, uri, presets, columns.caption)
            name = file_name_key(track.track_id)
            _check_id(track.track_id, named.get(name, name), first_seen, made)
        except _RowError as error:
            track_id, source, said = (_shown(values.get(name, "")) for name in REQUIRED)
            meta = {name: _shown(text) for name, text in own_values(values, COLUMNS).items()}
            yield RejectedRow(number, track_id, source, said, error.kind, str(error.at(f"row {number}")), meta)
            continue
        first_seen[track.track_id] = number
        if name != track.track_id:
            named.setdefault(name, track.track_id)
        yield track
    if number == 0:
        raise ManifestError("unreadable_manifest", "holds no rows", where=uri)
    columns.finish(uri)


def _check_id(
    track_id: str, other: str, first_seen: Mapping[str, int], made: Callable[[], Collection[str]]
) -> None:
    """Refuse an id that is taken, or that names another row's folder or a device on some systems.

    Args:
        other: id that maps to the same file name.

    Raises:
        _RowError: the id is refused.
    """
    if track_id in first_seen:
        remedy = "give every row its own"
        raise _RowError(
            "duplicate_track_id", f"is taken by row {first_seen[track_id]}", remedy, "track_id", track_id
        )
    if other in first_seen and track_id not in made():
        raise _RowError(
            "duplicate_track_id",
            f"names the same file as {other!r} of row {first_seen[other]} where case and the form of letters do "
            "not count",
            "rename one of them",
            "track_id",
            track_id,
        )
    if is_device(track_id) and track_id not in made():
        reason = "names a device on Windows"
        raise _RowError("unsafe_track_id", reason, "give it another name", "track_id", track_id)


def resolve_unicode_forms(
    rows: Iterable[Track | RejectedRow], timeout: ReadTimeout = DEFAULT_READ_TIMEOUT
) -> Iterator[Track | RejectedRow]:
    """Replace the URIs of rows by the Unicode form in which the files exist."""
    folders = FolderListings(timeout)
    batch: list[Track | RejectedRow] = []
    try:
        for row in rows:
            batch.append(row)
            if len(batch) >= BATCH_ROWS:
                yield from _as_spelled(batch, folders)
                batch = []
    except ManifestError:
        yield from _as_spelled(batch, folders)
        raise
    yield from _as_spelled(batch, folders)


def _as_spelled(rows: Sequence[Track | RejectedRow], folders: FolderListings) -> Iterator[Track | RejectedRow]:
    files = (uri for row in rows if isinstance(row, Track) for uri in (row.source, row.reference))
    actual = folders.actual({uri for uri in files if uri})
    for row in rows:
        if isinstance(row, Track) and actual.keys() & {row.source, row.reference}:
            reference = row.reference and actual.get(row.reference, row.reference)
            row = replace(row, source=actual.get(row.source, row.source), reference=reference)
        yield row


def _shown(value: Any) -> str:
    """A value as text without lone surrogates."""
    return (value if isinstance(value, str) else f"{value!s:.200}").encode(errors="replace").decode()


class _RowError(RestyleError):
    """A row cannot be used; its kind is that of the rejected row."""


def parse_track(
    values: Mapping[str, Any], manifest: str, presets: Sequence[Preset] = (), caption: str = ""
) -> Track:
    """Parse the non-empty values of a row.

    Raises:
        _RowError: a value is missing or out of range, or no preset has the row's genres.
    """
    for name in ("track_id", "source"):
        if name not in values:
            raise _RowError("missing_value", "is empty", "every row needs one", name)
    texts = {name: _text(name, values[name]) for name in TEXTS if name in values}
    track_id = track_id_of(texts["track_id"])
    if SHORTENED.fullmatch(track_id):
        reason = "is a number that has lost digits"
        raise _RowError("unsafe_track_id", reason, "keep the column as text", "track_id", track_id)
    if not names_a_folder(track_id):
        raise _RowError(
            "unsafe_track_id",
            "cannot name a folder",
            "use letters, digits, '_', '-', '.' and spaces, beginning with a letter, a digit or '_', up to "
            f"{MAX_ID_BYTES} bytes",
            "track_id",
            track_id,
        )
    preset = _preset(texts, presets)
    try:
        prompt, notes = check_prompt(
            Prompt(
                caption=texts.get("caption", preset.caption if preset else caption),
                lyrics=texts.get("lyrics", ""),
                language=texts.get("language", ""),
                bpm=as_whole_number("bpm", values["bpm"]) if "bpm" in values else None,
                keyscale=texts.get("keyscale", ""),
                timesignature=texts.get("timesignature", ""),
            )
        )
        # Values are checked one by one here; the plan checks their combination with the job's values.
        overrides = parse_values({name: values[name] for name in SETTING_FIELDS if name in values})
        if "seed" in values:
            overrides["seed"] = check_seed(values["seed"])
    except RequestError as error:
        raise _RowError.of(error, error.kind if error.kind == "empty_caption" else "out_of_range") from error
    reference = texts.get("reference_audio")
    meta = own_values(values, COLUMNS)
    for name, text in meta.items():
        _refuse_garbled(name, text)
    return Track(
        track_id=track_id,
        source=absolute(texts["source"], manifest),
        prompt=prompt,
        reference=None if reference is None else absolute(reference, manifest),
        overrides=overrides,
        notes=tuple(notes),
        preset=preset,
        meta=meta,
    )


def _text(name: str, value: Any) -> str:
    try:
        return as_text(name, value)
    except RequestError as error:
        raise _RowError.of(error, "garbled_text" if isinstance(value, str) else "not_text") from error


def _refuse_garbled(name: str, text: str) -> None:
    try:
        check_characters(name, text)
    except RequestError as error:
        raise _RowError.of(error, "garbled_text") from error


def _preset(texts: Mapping[str, str], presets: Sequence[Preset]) -> Preset | None:
    genres = [texts[name] for name in ("source_genre", "target_genre") if name in texts]
    if not genres:
        return None
    if len(genres) == 1:
        reason = "source_genre and target_genre name a preset together"
        raise _RowError("unknown_preset", reason, "give both or none")
    try:
        return for_genres(presets, *genres)
    except RequestError as error:
        raise _RowError.of(error, "unknown_preset") from error
