"""The pool: its size, and what happens when workers cannot start."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acestep.errors import RequestError
from pipeline.actors import WorkerSpec
from pipeline.cluster import ClusterSpec, PoolError, size_pool
from pipeline.plan import PLAN_SCHEMA
from pipeline.stages import stream
from pipeline.storage import open_store


@pytest.mark.usefixtures("ray_cluster")
def test_pool_follows_the_cluster_and_what_is_asked() -> None:
    pool = size_pool(ClusterSpec())
    assert (pool.workers, pool.gpus_per_worker, pool.threads) == (1, 0.0, 4)
    assert size_pool(ClusterSpec(workers=3)).threads == 1
    for wrong in (ClusterSpec(workers=0), ClusterSpec(calls_per_worker=0), ClusterSpec(gpus_per_worker=-1)):
        with pytest.raises(RequestError, match="may be below"):
            size_pool(wrong)


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_cannot_load_their_model_end_the_job(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    row = {"track_id": "a", "source": "a.wav", "prompt": "{}", "notes": [], "items": []}
    pq.write_table(pa.Table.from_pylist([row], schema=PLAN_SCHEMA), tmp_path / "plan.parquet")
    spec = WorkerSpec(
        output=store,
        launch="launch",
        model="/nowhere/model",
        variant=None,
        fingerprint="f00d",
        language_model=None,
        device="cpu",
        dtype="float32",
        audio_format="flac",
        most_seconds=600.0,
        threads=1,
        max_attempts=3,
    )
    with pytest.raises(PoolError, match="model '/nowhere/model': no such folder"):
        list(stream(store, "plan.parquet", spec, ClusterSpec(), size_pool(ClusterSpec())))
