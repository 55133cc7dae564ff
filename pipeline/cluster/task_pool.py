"""Map a function over items as bounded Ray tasks, for work that loads no model."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

Item = TypeVar("Item")
Result = TypeVar("Result")
QUEUED_PER_CPU = 2  # keeps CPUs busy while the driver handles a result
RETRIES = 2


def map_in_tasks(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    gpus: float = 0.0,
    resources: Mapping[str, float] | None = None,
    max_tasks: int | None = None,
) -> Iterator[tuple[Item, Result | RayError]]:
    """Run ``work`` on every item, one CPU each; yield (item, result) in order.

    Items are consumed lazily. An item that repeatedly crashes its process yields the RayError as its result.

    Args:
        gpus, resources: GPU fraction and custom Ray resources per task.
        max_tasks: maximal number of concurrent tasks; None uses what the cluster can hold.

    Raises:
        Any exception that ``work`` raises.
    """
    task = ray.remote(num_cpus=1, num_gpus=gpus, resources=dict(resources or {}), max_retries=RETRIES)(work)
    available = ray.cluster_resources()
    slots = available.get("GPU", 0.0) / gpus if gpus else available.get("CPU", 1.0)
    at_once = max_tasks or QUEUED_PER_CPU * max(1, int(slots))
    running: deque[tuple[Item, Any]] = deque()
    for item in items:
        running.append((item, task.remote(item)))
        if len(running) >= at_once:
            yield _settled(*running.popleft())
    while running:
        yield _settled(*running.popleft())


def _settled(item: Item, reference: Any) -> tuple[Item, Any]:
    try:
        return item, ray.get(reference)
    except RayTaskError as error:
        raise error.as_instanceof_cause() from None
    except RayError as error:
        return item, error
