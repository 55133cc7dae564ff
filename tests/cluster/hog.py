"""``jobs.restyle`` with a worker that takes 6 GB for one of the tracks.

python -m tests.cluster.hog manifest=... output=...
"""

import time
from functools import partial

import jobs.restyle
from acestep.generation.chain import Chain, Cover
from acestep.generation.stages import Stage
from pipeline.worker.restyle_worker import RestyleWorker
from pipeline.workflows import restyle

HUNGRY = "style 1"
BYTES, PAGE = 6_000_000_000, 4096


class HungryWorker(RestyleWorker):
    """Uses so much memory for tracks of one caption. Shipped by value."""

    def cover(self, item_id: str, chain: Chain, stages: tuple[Stage, ...], seed: int) -> Cover:
        if chain.track.prompt.caption == HUNGRY:
            held = bytearray(BYTES)
            for at in range(0, BYTES, PAGE):
                held[at] = 1
            time.sleep(5)
        return super().cover(item_id, chain, stages, seed)


if __name__ == "__main__":
    restyle.run = partial(restyle.run, worker_class=HungryWorker)
    jobs.restyle.main()
