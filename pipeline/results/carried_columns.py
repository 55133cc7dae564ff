"""Own columns (the user's columns of the manifest) in the result rows of earlier launches, and their update."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalogue.own_columns import META, META_TYPE
from pipeline.results.reader import current_rows
from pipeline.storage.store import Store

Meta = Mapping[str, str]


class CarriedColumns:
    """Own columns of the current rows of a folder, by item id."""

    def __init__(self, store: Store):
        self.rows = current_rows(store, columns=("item_id", META)).combine_chunks()

    def outdated(self, columns: Mapping[str, Meta]) -> dict[str, Meta]:
        """The new own columns of the items whose row exists and holds other values than ``columns``."""
        ids = pa.array(columns, pa.string())
        places = pc.index_in(ids, value_set=self.rows["item_id"])
        held = self.rows.take(places.drop_null()).to_pylist()
        return {
            row["item_id"]: columns[row["item_id"]]
            for row in held
            if dict(row[META] or ()) != dict(columns[row["item_id"]])
        }


def with_new_columns(store: Store, meta: Mapping[str, Meta]) -> pa.Table:
    """The current rows of the items in ``meta``, with their own columns replaced."""
    rows = current_rows(store, set(meta))
    values = [list(meta[item_id].items()) for item_id in rows["item_id"].to_pylist()]
    return rows.set_column(rows.column_names.index(META), rows.schema.field(META), pa.array(values, META_TYPE))
