"""The pool at work, and what happens when workers cannot start."""

import platform
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.cluster.errors import PoolError
from pipeline.cluster.pool import size_pool
from pipeline.cluster.shutdown import StopFlag
from pipeline.cluster.spec import ClusterSpec
from pipeline.planning.items import ModelFacts
from pipeline.planning.plan_file import PlanWriter
from pipeline.planning.schema import PLAN_SCHEMA
from pipeline.storage.store import open_store
from pipeline.worker.attempts import mark_start
from pipeline.worker.dataset import stream
from pipeline.worker.spec import WorkerSpec


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_cannot_load_their_model_end_the_job(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    row = {"track_id": "a", "source": "a.wav", "prompt": "{}", "notes": [], "items": [{}]}
    work = PlanWriter()
    work.add(pa.Table.from_pylist([row], schema=PLAN_SCHEMA))
    work.write(store)
    mark_start(store, "launch")
    spec = WorkerSpec(
        output=store,
        launch="launch",
        node=platform.node(),
        model=ModelFacts("/nowhere/model", "f00d", is_turbo=True, dtype="float32"),
        variant=None,
        language_model=None,
        device="cpu",
        audio_format="flac",
        max_seconds=600.0,
        threads=1,
        max_attempts=3,
    )
    with pytest.raises(PoolError, match="model '/nowhere/model' is no folder"):
        list(stream(store, spec, ClusterSpec(), size_pool(ClusterSpec()), StopFlag()))
