"""Covers made by other tools: reads a list of source/output pairs as result rows."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from acestep.constants import RANDOM_SEED
from acestep.errors import RestyleError
from acestep.parameters.values import as_text
from acestep.redaction import redacted
from acestep.sampling.setting import SETTING_FIELDS, check_seed, parse_values
from pipeline.catalogue.grid import short_name
from pipeline.catalogue.own_columns import META, OPTION, absent, own_values
from pipeline.catalogue.table_reader import ManifestError, filled, refuse_columns, rows_of
from pipeline.catalogue.track_ids import names_a_folder, track_id_of
from pipeline.planning.items import digest_of
from pipeline.storage.store import absolute

REQUIRED = ("source", "output")
TEXTS = (*REQUIRED, "track_id", "setting", "caption")
FACTS = ("seed", *SETTING_FIELDS)
COLUMNS = (*TEXTS, *FACTS)
PLAIN_SETTING = "output"


def read_pairs(uri: str, own: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Read a list of pairs as result rows without measures.

    Columns: ``source`` and ``output``, paths or URIs, relative to the list's folder; ``track_id``, by default the
    source's file name; ``setting``, the group that outputs are compared by; ``seed``, ``caption``, and setting
    parameters.

    Args:
        own: columns of the user to carry along, see ``pipeline.catalogue.own_columns``.

    Raises:
        ManifestError: the list cannot be read, or a row is invalid.
    """
    sources: dict[str, str] = {}
    seen: dict[str, int] = {}
    columns: dict[str, None] = {}
    for raw in rows_of(uri, partial(_check, own=own), COLUMNS):
        columns |= dict.fromkeys(raw.values)
        number, where = raw.number, f"{uri}: row {raw.number}"
        if raw.defect:
            raise ManifestError("unreadable_manifest", raw.defect, where=where)
        row = _row(filled(raw.values, TEXTS, FACTS), uri, where)
        if sources.setdefault(row["track_id"], row["source"]) != row["source"]:
            remedy = "tell them apart by a column track_id"
            raise ManifestError(
                "unreadable_manifest",
                f"row {number}: track_id {row['track_id']!r} stands for {sources[row['track_id']]} "
                f"already, not for {row['source']}",
                remedy,
                where=uri,
            )
        first = seen.setdefault(row["item_id"], number)
        if first != number:
            raise ManifestError(
                "unreadable_manifest", f"row {number} repeats row {first}", "remove one of them", where=uri
            )
        yield row
    if not seen:
        raise ManifestError("unreadable_manifest", "holds no rows", where=uri)
    if lost := absent(own, columns):
        reason = f"no row has {', '.join(map(repr, lost))}, which {OPTION} names"
        raise ManifestError("unreadable_manifest", reason, where=uri)


def _check(names: Sequence[str], where: str, complete: bool, own: Sequence[str]) -> None:
    refuse_columns(names, where, COLUMNS, REQUIRED, complete, own)


def _row(given: dict[str, Any], uri: str, where: str) -> dict[str, Any]:
    for name in REQUIRED:
        if name not in given:
            raise ManifestError("unreadable_manifest", "is empty", "every row needs one", name, where=where)
    try:
        texts = {name: as_text(name, given[name]) for name in TEXTS if name in given}
        source, output = (absolute(texts[name], uri) for name in REQUIRED)
        track_id = track_id_of(texts.get("track_id", source.rsplit("/", 1)[-1].rsplit(".", 1)[0]))
        if not names_a_folder(track_id):
            remedy = "use letters, digits, '_', '-' and '.'"
            raise ManifestError("unreadable_manifest", "cannot name a folder", remedy, "track_id", track_id)
        values = parse_values({name: given[name] for name in SETTING_FIELDS if name in given})
        seed = check_seed(given["seed"]) if "seed" in given else RANDOM_SEED
        meta = own_values(given, COLUMNS)
    except RestyleError as error:
        raise ManifestError.of(error).at(where) from error
    name = texts.get("setting") or short_name(values) or PLAIN_SETTING
    row = {
        "track_id": track_id,
        "source": source,
        "audio_path": output,
        "setting_name": name,
        "seed": None if seed == RANDOM_SEED else seed,
    }
    row |= values
    setting = {"name": name, **{key: str(value) for key, value in values.items()}}
    return row | {
        "item_id": digest_of({key: redacted(str(value)) for key, value in row.items()}),
        "setting_id": digest_of(setting)[:12],
        "caption": texts.get("caption", ""),
        META: meta,
        "status": "ok",
    }
