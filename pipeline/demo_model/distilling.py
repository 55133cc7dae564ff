"""Turbo: a student that takes in one step, without guidance, what its teacher takes in several guided ones."""

import torch
from torch import Tensor

from acestep.sampling.guidance import apg
from acestep.sampling.schedule import TURBO_SHIFTS, TURBO_STEPS, shifted
from pipeline.demo_model.flow import Batch, Latents, context_of
from pipeline.demo_model.network import Network
from pipeline.demo_model.teacher import SPECTRAL
from pipeline.demo_model.training import Losses

GUIDANCE = 4.0
SUBSTEPS = 2


def losses(student: Network, teacher: Network, data: Latents, batch: Batch) -> Losses:
    """Squared error of the student's velocity against the teacher's mean one along a step of a turbo schedule."""
    count, device = len(batch.source), batch.source.device
    now, then = _steps(count, device)
    noise = torch.randn_like(batch.target)
    x = now[:, None, None] * noise + (1 - now[:, None, None]) * batch.target
    wanted = (x - _ahead(teacher, data, batch, x, now, then)) / (now - then)[:, None, None]
    context, _, _ = context_of(student, data, batch)
    conditions, real = student.conditions(batch.ids, batch.lengths, data.lyrics, data.silence)
    found, _ = student.velocity(x, context, now, conditions, real)
    error = (found - wanted).square()
    parts = {"spectral": error[..., :SPECTRAL].mean(), "phase": error[..., SPECTRAL:].mean()}
    return error.mean(), parts


def _steps(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Begin and end ``[count]`` of random steps of the schedules that turbo models know."""
    times = torch.tensor([shifted(TURBO_STEPS, shift) for shift in TURBO_SHIFTS])
    which, step = torch.randint(len(TURBO_SHIFTS), (count,)), torch.randint(TURBO_STEPS, (count,))
    return times[which, step].to(device), times[which, step + 1].to(device)


def _ahead(teacher: Network, data: Latents, batch: Batch, x: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """The state at ``then`` that the guided teacher comes to from ``x`` at ``now``.

    Not under ``no_grad``: on a CPU the modules then work as in inference, which knows no autocast.
    """
    context, _, _ = context_of(teacher, data, batch)
    conditions, real = teacher.conditions(batch.ids, batch.lengths, data.lyrics, data.silence)
    null = teacher.model.null_condition_emb.expand_as(conditions).to(conditions)
    for k in range(SUBSTEPS):
        t = now + (then - now) * k / SUBSTEPS
        conditional, _ = teacher.velocity(x, context, t, conditions, real)
        unconditional, _ = teacher.velocity(x, context, t, null, real)
        velocity, _ = apg(conditional, unconditional, GUIDANCE)
        x = (x + velocity * ((then - now) / SUBSTEPS)[:, None, None]).detach()
    return x
