"""Pieces of work on a real cluster: their order, their errors, and one that takes its process down."""

import os
import time
from collections.abc import Iterator

import pytest
from ray.exceptions import WorkerCrashedError

from acestep.errors import RequestError
from pipeline.cluster.task_pool import map_in_tasks

pytestmark = pytest.mark.usefixtures("ray_cluster")


def slow_when_small(piece: int) -> int:
    time.sleep(0.2 / (piece + 1))
    return piece * piece


def test_pieces_come_back_in_their_order_and_are_taken_as_there_is_room() -> None:
    taken = []

    def pieces() -> Iterator[int]:
        for piece in range(40):
            taken.append(piece)
            yield piece

    found = map_in_tasks(slow_when_small, pieces())
    assert next(found) == (0, 0)
    assert len(taken) < 20
    assert list(found) == [(piece, piece * piece) for piece in range(1, 40)]


def test_what_the_work_raises_is_raised() -> None:
    def refuse(piece: int) -> None:
        raise RequestError("invalid_value", f"no {piece}")

    with pytest.raises(RequestError, match="no 1"):
        list(map_in_tasks(refuse, [1]))


def test_a_piece_that_takes_its_process_down_costs_itself() -> None:
    def fatal(piece: int) -> int:
        if piece == 1:
            os._exit(1)
        return piece

    first, second, third = map_in_tasks(fatal, [0, 1, 2])
    assert (first, third) == ((0, 0), (2, 2))
    assert isinstance(second[1], WorkerCrashedError)
