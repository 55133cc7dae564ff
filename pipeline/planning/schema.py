"""Arrow schemas of plan rows and worker tasks. Light to import: reading a plan needs no model."""

import pyarrow as pa

from pipeline.catalogue.own_columns import META, META_TYPE

ITEM = pa.struct(
    [
        ("item_id", pa.string()),
        ("setting_id", pa.string()),
        ("setting_name", pa.string()),
        ("stages", pa.string()),  # the values of every Stage up to this one, as JSON
        ("seed", pa.int64()),
        ("parent_item_id", pa.string()),
    ]
)

PLAN_SCHEMA = pa.schema(
    [
        ("track_id", pa.string()),
        ("source", pa.string()),
        ("source_digest", pa.string()),  # SHA-256 of the bytes, part of the item ids
        ("reference", pa.string()),
        ("reference_digest", pa.string()),
        ("prompt", pa.string()),  # the Prompt as JSON
        ("preset", pa.string()),
        ("notes", pa.list_(pa.string())),
        (META, META_TYPE),
        ("source_duration_s", pa.float64()),
        ("items", pa.list_(ITEM)),
    ]
)

# A task is one row that holds tracks, since Ray splits blocks of several rows.
TRACKS = "tracks"
TASK_SCHEMA = pa.schema([(TRACKS, pa.list_(pa.struct(list(PLAN_SCHEMA))))])
