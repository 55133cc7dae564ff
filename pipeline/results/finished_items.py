"""What a folder has already: finished items, which a restarted job leaves out, their tracks and their models."""

import pyarrow.compute as pc

from pipeline.results.reader import REJECTED, RESULTS, each_part, read_results
from pipeline.storage.store import Store
from pipeline.storage.transient_errors import TRANSIENT_KINDS


def finished_items(store: Store, retry_failed: bool = False) -> set[str]:
    """Ids of items that are ok and, unless ``retry_failed``, of those whose newest row is a permanent failure."""
    rows = read_results(store, RESULTS, REJECTED, columns=("item_id", "status", "error_kind"))
    ok = pc.equal(rows["status"], "ok")
    finished = set(rows["item_id"].filter(ok).to_pylist())
    if not retry_failed:
        failed = rows.filter(pc.invert(ok))
        newest = dict(zip(failed["item_id"].to_pylist(), failed["error_kind"].to_pylist(), strict=True))
        finished |= {item_id for item_id, kind in newest.items() if kind not in TRANSIENT_KINDS}
    return finished


def made_tracks(store: Store) -> set[str]:
    """Ids of the tracks with finished covers in a folder."""
    return _unique_of_ok(store, "track_id")


def changed_sources(store: Store) -> set[str]:
    """Sources and references whose content had changed when a worker read them."""
    found: set[str] = set()
    columns = ("source", "reference_audio")
    for _, rows in each_part(store, RESULTS, ("error_kind", *columns)):
        changed = rows.filter(pc.equal(rows["error_kind"], "source_changed"))
        found.update(*(changed[name].drop_null().to_pylist() for name in columns))
    return found


def made_with(store: Store) -> set[str]:
    """Fingerprints of the models that made a folder's covers."""
    return _unique_of_ok(store, "model_fingerprint")


def _unique_of_ok(store: Store, column: str) -> set[str]:
    rows = read_results(store, RESULTS, columns=(column, "status"))
    return set(pc.unique(rows.filter(pc.equal(rows["status"], "ok"))[column]).drop_null().to_pylist())
