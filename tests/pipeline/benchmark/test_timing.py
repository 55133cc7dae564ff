"""Times in turn, ratios by round, time by part."""

import time

import pytest
import torch

from pipeline.benchmark.part_timing import DECODE, DIT, REST, by_part
from pipeline.benchmark.patching import replaced, results_of
from pipeline.benchmark.timing import TimeSample, interleave, measured, ratios

CPU = torch.device("cpu")


def test_sides_run_in_turn() -> None:
    order: list[str] = []
    samples = interleave({name: lambda name=name: order.append(name) for name in ("a", "b")}, 2, CPU)
    assert order == ["a", "b", "a", "b"]
    assert {name: len(own) for name, own in samples.items()} == {"a": 2, "b": 2}


def test_sleep_takes_time_on_the_wall_alone() -> None:
    made, sample = measured(lambda: time.sleep(0.05) or "made", CPU)
    assert made == "made"
    assert sample.wall >= 0.05 > 2 * sample.cpu
    assert sample.device is None


def test_ratios_are_by_round() -> None:
    ours = [TimeSample(wall, 1.0) for wall in (1.0, 2.0, 4.0)]
    peer = [TimeSample(wall, 3.0) for wall in (3.0, 2.0, 8.0)]
    wall, cpu = ratios(ours, peer)
    assert (wall.clock, wall.least, wall.median, wall.most) == ("wall", 1.0, 2.0, 3.0)
    assert (wall.ours_s, wall.peer_s) == (2.0, 3.0)
    assert (cpu.clock, cpu.least, cpu.most) == ("cpu", 3.0, 3.0)
    events = [TimeSample(1.0, 1.0, 0.5)]
    assert [ratio.clock for ratio in ratios(events, events)] == ["wall", "cpu", "device"]


def work(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


class Model:
    """Stands for parts: one is called within another."""

    def outer(self) -> None:
        work(0.02)
        self.inner()

    def inner(self) -> str:
        work(0.04)
        return "inner"


def test_time_belongs_to_the_innermost_part() -> None:
    model = Model()
    with by_part([(model, "outer", DIT), (model, "inner", DECODE)], CPU) as seconds:
        work(0.06)
        model.outer()
    assert seconds[DIT] == pytest.approx(0.02, abs=0.015)
    assert seconds[DECODE] == pytest.approx(0.04, abs=0.015)
    assert seconds[REST] == pytest.approx(0.06, abs=0.015)
    assert not vars(model), "the model has its own methods again"


def test_results_are_seen_and_methods_given_back() -> None:
    model = Model()
    with results_of(model, "inner") as seen:
        model.outer()
        with pytest.raises(ValueError, match=r"Model\.inner is replaced already"), replaced(model, "inner", id):
            pass
    assert seen == ["inner"]
    assert not vars(model)
