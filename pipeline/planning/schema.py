"""What a plan is made of. Light to import: the task that reads a plan needs no model."""

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
        ("source_digest", pa.string()),  # SHA-256 of the bytes that the items were named by
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

# What a worker is given at once: tracks in one row, since Ray splits blocks of several.
TRACKS = "tracks"
TASK_SCHEMA = pa.schema([(TRACKS, pa.list_(pa.struct(list(PLAN_SCHEMA))))])
