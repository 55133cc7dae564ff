"""Two nodes, and everything that can die does: a worker, a node, the driver. Only what was in hand is repeated."""

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.cluster.spec import ClusterSpec
from tests.cluster.launches import SEEDS, Launches, explain, write_catalogue
from tests.cluster.two_nodes import nodes

pytestmark = pytest.mark.cluster
CALLS_PER_WORKER = ClusterSpec().calls_per_worker
AGAIN_S = 60.0
RUNS = [
    pytest.param(3, 0.6, False, id="12 items"),
    pytest.param(6, 0.6, True, id="24 items and the driver", marks=pytest.mark.slow),
    pytest.param(50, 0.4, True, id="200 items and the driver", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("tracks", "pace_s", "driver"), RUNS)
def test_killed_workers_nodes_and_drivers_cost_only_what_they_held(
    tmp_path: Path, tracks: int, pace_s: float, driver: bool
) -> None:
    manifest, items = write_catalogue(tmp_path, tracks), tracks * SEEDS
    with nodes() as cluster:
        second = cluster.add()
        places = (f"cluster.address={cluster.address}", "cluster.workers=2", "cluster.gpus_per_worker=0",
                  "cluster.resources={seat: 1}")  # fmt: skip
        plain = Launches(tmp_path / "plain", manifest, cluster.environment, *places)
        undisturbed_s = plain.run()
        expected = plain.audio()
        assert len(expected) == len(plain.generations()) == items

        shaken = Launches(tmp_path / "shaken", manifest, cluster.environment | {"PACE_S": str(pace_s)}, *places)
        started = time.monotonic()
        job = shaken.start()
        shaken.until(job, lambda: shaken.done() >= items // 8 and len(shaken.busy()) == 2)
        (worker,) = shaken.busy() - second.pids
        kills = [shaken.kill("a worker", lambda: os.kill(worker, signal.SIGKILL), {worker})]

        done = shaken.done()
        shaken.until(job, lambda: shaken.done() >= done + items // 8 and bool(shaken.busy() & second.pids))
        kills.append(shaken.kill("a node", second.kill, second.pids))
        cluster.add()

        if driver:
            done = shaken.done()
            shaken.until(job, lambda: shaken.done() >= min(done + items // 8, items - 3))
            kills.append(shaken.kill("the driver", job.kill, {one.pid for one in shaken.generations()}))
            job.wait()
            job = shaken.start()
        shaken.finish(job)
        took_s = time.monotonic() - started
        generations = shaken.generations()
        again_s = shaken.run(AGAIN_S) if driver else 0.0
    assert shaken.audio() == expected
    assert shaken.generations() == generations
    costs = explain(generations, kills)
    counts = Counter(Counter(one.item_id for one in generations).values())
    print(f"\n{items} items: {undisturbed_s:.0f} s undisturbed; {took_s:.0f} s with {len(kills)} kills, at "
          f"{pace_s} s each; {again_s:.1f} s for one more launch, which generated nothing")  # fmt: skip
    print("generated:", ", ".join(f"{items} items {times}x" for times, items in sorted(counts.items())))
    for kill in kills:
        print(f"  {kill.what}: {costs[kill.what]} repeated; {kill.rows} rows were written by then")
    assert costs["a worker"] <= CALLS_PER_WORKER
    assert costs["a node"] <= CALLS_PER_WORKER
