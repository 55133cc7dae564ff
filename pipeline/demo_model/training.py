"""The training loop: resumable at any step to the same state.

All that is random at a step is drawn from the seed and the number of the step, so a checkpoint holds no state of
random generators: parameters, their moving average, and what the optimisers keep.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

log = logging.getLogger(__name__)
AVERAGE = 0.995  # of the moving average of parameters, per step; less in the first steps
SMOOTH = 0.97  # of the reported losses
REPORT_EVERY, CHECK_EVERY = 20, 200  # steps


@dataclass(frozen=True)
class Schedule:
    """Steps in all, and the learning rate along them: a warm-up, a constant part, a linear decay to zero.

    ``decay`` is the share of steps that the decay takes. Training that was stopped can go on with another number
    of steps: until the decay begins, the states are the same.
    """

    steps: int
    warmup: int = 60
    decay: float = 0.35
    clip: float = 1.0

    def scale(self, step: int) -> float:
        """Of the learning rates at a step."""
        return min(1.0, (step + 1) / self.warmup, (self.steps - step) / max(1.0, self.decay * self.steps))


@dataclass(frozen=True)
class Draws:
    """Random generators of one step; torch's global one is seeded beside them."""

    step: int
    numpy: np.random.Generator

    @classmethod
    def at(cls, seed: int, step: int) -> "Draws":
        """Those of a step, whatever came before."""
        torch.manual_seed(seed * 1_000_003 + step)
        return cls(step, np.random.default_rng((seed, step)))


Reporter = Callable[[str, int, Mapping[str, float]], None]  # stage, step, smoothed losses
Losses = tuple[Tensor, Mapping[str, Tensor]]  # what is minimised, and its parts to be told


@dataclass
class State:
    """What a checkpoint holds: modules by their names, and the step that is next."""

    module: nn.Module
    optimisers: Sequence[torch.optim.Optimizer]
    average: dict[str, Tensor]
    step: int = 0

    @classmethod
    def fresh(cls, module: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> "State":
        """The state before the first step."""
        state = cls(module, optimisers, {})
        state.average = {name: p.detach().clone() for name, p in state.trained().items()}
        return state

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimisers have, by their names."""
        groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]
        known = {id(p) for group in groups for p in group["params"]}
        return {name: p for name, p in self.module.named_parameters() if id(p) in known}

    def save(self, file: Path) -> None:
        """Write a checkpoint; a reader finds the one before or this one, never a part of one."""
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for index, optimiser in enumerate(self.optimisers):
            for number, kept in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{index}.{number}.{key}": torch.as_tensor(v) for key, v in kept.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".part")
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, unfinished,
                  metadata={"step": str(self.step)})  # fmt: skip
        unfinished.replace(file)

    def load(self, file: Path) -> None:
        """Go on from a checkpoint."""
        with safe_open(file, "pt") as opened:
            self.step = int(opened.metadata()["step"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, no mapping
        part = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        self.module.load_state_dict(part("module."))
        for name, value in part("average.").items():
            self.average[name].copy_(value)
        for index, optimiser in enumerate(self.optimisers):
            kept: dict[int, dict[str, Tensor]] = {}
            for name, value in part(f"optimiser.{index}.").items():
                number, key = name.split(".", 1)
                kept.setdefault(int(number), {})[key] = value
            if kept:
                optimiser.load_state_dict(optimiser.state_dict() | {"state": kept})


def averaged(file: Path) -> dict[str, Tensor]:
    """A checkpoint's parameters and buffers, the moving average where there is one."""
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    found = {name.removeprefix("module."): v for name, v in tensors.items() if name.startswith("module.")}
    return found | {name.removeprefix("average."): v for name, v in tensors.items() if name.startswith("average.")}


def fit(
    state: State,
    file: Path,
    schedule: Schedule,
    seed: int,
    losses: Callable[[Draws], Losses],
    reporters: Sequence[Reporter],
    save_every_s: float = 120.0,
    check: Callable[[], Mapping[str, float]] = dict,
) -> None:
    """Train until the schedule ends, from the checkpoint ``file`` where there is one; leaves it written.

    Args:
        losses: of one step.
        reporters: called with the stage's name, the step and smoothed losses every ``REPORT_EVERY`` steps.
        check: further values every ``CHECK_EVERY`` steps, such as a loss on held-out songs.
    """
    if file.exists():
        state.load(file)
    rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in state.optimisers]
    trained = state.trained()
    smooth: dict[str, float] = {}
    saved = time.monotonic()
    while state.step < schedule.steps:
        scale = schedule.scale(state.step)
        for optimiser, initial in zip(state.optimisers, rates, strict=True):
            for group, rate in zip(optimiser.param_groups, initial, strict=True):
                group["lr"] = rate * scale
        state.module.zero_grad(set_to_none=True)
        loss, parts = losses(Draws.at(seed, state.step))
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in trained.values() if p.grad is not None], schedule.clip)
        for optimiser in state.optimisers:
            optimiser.step()
        keep = min(AVERAGE, (state.step + 1) / (state.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(state.average.values()), list(trained.values()), 1 - keep)
        for name, value in parts.items():
            now = float(value.detach())
            if now == now:  # a part may be missing from a batch
                smooth[name] = SMOOTH * smooth.get(name, now) + (1 - SMOOTH) * now
        state.step += 1
        checked = check() if state.step % CHECK_EVERY == 0 or state.step == schedule.steps else {}
        if state.step % REPORT_EVERY == 0 or state.step == schedule.steps:
            for reporter in reporters:
                reporter(file.stem, state.step, smooth | dict(checked))
        if time.monotonic() - saved > save_every_s or state.step == schedule.steps:
            state.save(file)
            saved = time.monotonic()


def log_losses(folder: Path) -> Reporter:
    """Appends losses to ``folder/losses.jsonl`` and logs them."""

    def report(stage: str, step: int, values: Mapping[str, float]) -> None:
        line = {"stage": stage, "step": step, "cpu_s": round(time.process_time())}
        with (folder / "losses.jsonl").open("a") as file:
            file.write(json.dumps(line | {name: round(value, 4) for name, value in values.items()}) + "\n")
        text = " ".join(f"{name} {value:.3f}" for name, value in values.items())
        log.info("%s step %d (%d CPU-s): %s", stage, step, line["cpu_s"], text)

    return report
