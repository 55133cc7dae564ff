"""What is told of the workers' start, and of how busy their model was."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.results.writer import as_table
from pipeline.storage.store import Store, open_store
from pipeline.worker.startup import in_words, start_up, worker_is_ready


def row(at: float, model_s: float) -> dict:
    """A cover finished at ``at`` for which the model worked ``model_s``."""
    finished = datetime.fromtimestamp(at, UTC)
    return {"finished_at": finished, "condition_s": 0.25, "denoise_s": model_s - 0.75, "decode_s": 0.5}


def leave(store: Store, name: str, ready_at: float, network_s: float) -> None:
    parts = {"imports": 2.0, "network": network_s, "checks": 0.01}
    store.write(f"attempts/now/workers/{name}.json", json.dumps({"ready_at": ready_at, "parts": parts}).encode())


def test_the_longest_start_is_told_by_part_and_the_models_share_over_all(tmp_path: Path) -> None:
    store, now = open_store(str(tmp_path)), time.time()
    leave(store, "a", now + 6, 4.0)
    leave(store, "late", now + 8, 3.0)  # a worker that took a dead one's place: no long start
    rows = as_table([row(now - 50, 30.0), row(now + 12, 4.0), row(now + 16, 11.5)])
    found = start_up(store, "now", now, rows)
    assert found.workers == 2
    assert found.parts == {"imports": 2.0, "network": 4.0, "checks": 0.01}
    assert found.model_share == pytest.approx(15.5 / (10 + 8), rel=1e-3)  # what an earlier launch made is not here
    assert in_words(found) == "6.0 s (imports 2.0, network 4.0); then 86.1 % of the time in the model"


def test_a_launch_that_made_nothing_has_no_share(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert start_up(store, "now", time.time(), as_table([])).workers == 0
    worker_is_ready(store, "now", {"network": 1.0})
    found = start_up(store, "now", time.time() - 3, as_table([row(time.time() - 50, 1.0)]))
    assert (found.workers, found.model_share) == (1, None)
    assert list(found.parts) == ["imports", "network"]


def test_a_figure_that_cannot_be_read_ends_no_job(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("attempts/now/workers/a.json", b"")
    assert start_up(store, "now", time.time(), as_table([])).workers == 0
