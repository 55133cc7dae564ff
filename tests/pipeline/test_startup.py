"""What is told of the workers' start, and of how busy their model was."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.results import as_table
from pipeline.startup import in_words, start_up, worker_is_ready
from pipeline.storage import open_store


def row(at: float, model_s: float) -> dict:
    return {"finished_at": datetime.fromtimestamp(at, UTC), "denoise_s": model_s, "decode_s": 0.5}


def test_the_slowest_start_is_told_by_part_and_the_models_share_over_all(tmp_path: Path) -> None:
    store, now = open_store(str(tmp_path)), time.time()
    for name, ready_at in (("a", now + 6), ("b", now + 8)):
        content = {"ready_at": ready_at, "parts": {"network": 2.0, "autoencoder": 0.5, "checks": 0.01}}
        store.write(f"attempts/now/workers/{name}.json", json.dumps(content).encode())
    rows = as_table([row(now - 50, 30.0), row(now + 12, 3.5), row(now + 16, 11.0)])
    found = start_up(store, "now", now, rows)
    assert found.workers == 2
    assert found.seconds == pytest.approx(8)
    assert found.parts["process and imports"] == pytest.approx(8 - 2.51)
    assert found.model_share == pytest.approx(
        (4.0 + 11.5) / (10 + 8), rel=1e-3
    )  # what an earlier launch made is not here
    assert (
        in_words(found)
        == "8.0 s (process and imports 5.5, network 2.0, autoencoder 0.5); then 86.1 % of the time in the model"
    )


def test_a_launch_that_made_nothing_has_no_share(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert start_up(store, "now", time.time(), as_table([])).workers == 0
    worker_is_ready(store, "now", {"network": 1.0})
    found = start_up(store, "now", time.time() - 3, as_table([row(time.time() - 50, 1.0)]))
    assert found.workers == 1
    assert found.model_share is None
    assert found.seconds == pytest.approx(3, abs=0.5)
