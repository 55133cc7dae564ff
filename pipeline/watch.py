"""A watch for silence: a job of days that stands still says so."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from pipeline.cluster import Pool
from pipeline.progress import spell

SILENCE_S = 900.0
ANSWER_S = 10.0


class SilenceWatch:
    """Warns from a thread of its own when nothing was heard for a while, and again after twice as long.

    describe: how the cluster is, in a few words.
    silence_s: seconds until the first warning.
    """

    def __init__(self, warn: Callable[[str], None], describe: Callable[[], str], silence_s: float = SILENCE_S):
        self.warn, self.describe, self.silence_s = warn, describe, silence_s
        self.changed = threading.Condition()
        self.last = time.monotonic()
        self.ended = False

    def heard(self) -> None:
        """A cover has finished: count from here."""
        with self.changed:
            self.last = time.monotonic()
            self.changed.notify()

    def _run(self) -> None:
        patience, since = self.silence_s, self.last
        while True:
            with self.changed:
                if self.last != since:
                    patience, since = self.silence_s, self.last
                silent_s = time.monotonic() - since
                if not self.ended and silent_s < patience:
                    self.changed.wait(patience - silent_s)
                    continue
                if self.ended:
                    return
            self._say(silent_s)
            patience = 2 * silent_s

    def _say(self, silent_s: float) -> None:
        how = _answer(self.describe)
        with self.changed:
            if self.ended:
                return
        self.warn(
            f"no cover has finished for {spell(silent_s)}; {how}; Ctrl-C stops cleanly, what is finished is kept"
        )


def _answer(describe: Callable[[], str]) -> str:
    """A description, or that there is none: a cluster without its head may never answer."""
    answers = ["the cluster does not answer"]

    def ask() -> None:
        try:
            answers.append(describe())
        except Exception as error:
            answers.append(f"the cluster does not answer ({type(error).__name__}: {error})")

    asking = threading.Thread(target=ask, name="restyle-describe", daemon=True)
    asking.start()
    asking.join(ANSWER_S)
    return answers[-1]


@contextmanager
def watching(
    warn: Callable[[str], None], describe: Callable[[], str], silence_s: float = SILENCE_S
) -> Iterator[SilenceWatch]:
    """Watch for silence while the block runs; tell the watch what is ``heard``."""
    watch = SilenceWatch(warn, describe, silence_s)
    thread = threading.Thread(target=watch._run, name="restyle-watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        with watch.changed:
            watch.ended = True
            watch.changed.notify()


def describe_cluster(pool: Pool) -> str:
    """What a job's cluster has now, in a few words."""
    nodes = [bool(node["Alive"]) for node in ray.nodes()]
    has, free = ray.cluster_resources(), ray.available_resources()
    alive = sum(nodes)
    said = f"the cluster has {alive} {'node' if alive == 1 else 'nodes'} alive"
    if alive < len(nodes):
        said += f" and {len(nodes) - alive} lost"
    if not pool.gpus_per_worker:
        return f"{said}, {free.get('CPU', 0.0):g} of {has.get('CPU', 0.0):g} CPUs free"
    gpus = f"{free.get('GPU', 0.0):g} of {has.get('GPU', 0.0):g} GPUs free"
    return f"{said}, {gpus}, and {pool.workers} workers need {pool.gpus_per_worker:g} GPU each"
