"""Independent pieces of work as Ray tasks, for what comes in hundreds and loads no model of its own."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

Piece = TypeVar("Piece")
Made = TypeVar("Made")
QUEUED_PER_CPU = 2  # pieces that wait for each CPU, so that none idles while the driver looks at a result
RETRIES = 2


def map_in_tasks(
    work: Callable[[Piece], Made],
    pieces: Iterable[Piece],
    gpus: float = 0.0,
    resources: Mapping[str, float] | None = None,
    max_tasks: int | None = None,
) -> Iterator[tuple[Piece, Made | RayError]]:
    """Run ``work`` on every piece, a CPU each; yields the pieces in their order with what was made of them.

    Pieces are taken as there is room for them. A piece that takes its process down, again and again, comes back
    with the error.

    Args:
        gpus, resources: share of a GPU, and custom Ray resources, that each piece takes.
        max_tasks: pieces at once; None is as many as the cluster has place for.

    Raises:
        Whatever ``work`` raises: it is for it to say what a bad piece comes to.
    """
    task = ray.remote(num_cpus=1, num_gpus=gpus, resources=dict(resources or {}), max_retries=RETRIES)(work)
    there = ray.cluster_resources()
    slots = there.get("GPU", 0.0) / gpus if gpus else there.get("CPU", 1.0)
    at_once = max_tasks or QUEUED_PER_CPU * max(1, int(slots))
    under_way: deque[tuple[Piece, Any]] = deque()
    for piece in pieces:
        under_way.append((piece, task.remote(piece)))
        if len(under_way) >= at_once:
            yield _settled(*under_way.popleft())
    while under_way:
        yield _settled(*under_way.popleft())


def _settled(piece: Piece, reference: Any) -> tuple[Piece, Any]:
    try:
        return piece, ray.get(reference)
    except RayTaskError as error:
        raise error.as_instanceof_cause() from None
    except RayError as error:
        return piece, error
