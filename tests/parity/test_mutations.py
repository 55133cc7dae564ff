"""Wrong formulas that the one tolerance of the reference vectors has to catch: each makes a case fail."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor

from acestep.model import attention, layers
from acestep.model import autoencoder_cpu as autoencoder_rows
from acestep.model import transformer_cpu as transformer_rows
from acestep.model.condition_encoder import TimbreEncoder
from acestep.model.layers import SwiGLU
from acestep.model.transformer_layers import TimestepEmbedding
from acestep.sampling import guidance, sampler, schedule
from acestep.sampling import plan as cover
from tests.parity.cases import Case
from tests.parity.replay import all_cases

GOLDEN = Path(__file__).parents[1] / "golden"
MARGIN = 3  # a wrong formula is that far beyond the tolerance, so that rounding cannot hide it


def argument(
    name: str, function: Callable[..., Any], change: Callable[[Any], Any], place: int
) -> Callable[..., Any]:
    """``function`` with one argument changed, by place or by name."""

    def changed(*args: Any, **kwargs: Any) -> Any:
        if name in kwargs:
            return function(*args, **kwargs | {name: change(kwargs[name])})
        return function(*args[:place], change(args[place]), *args[place + 1 :], **kwargs)

    return changed


def gelu_gate(x: Tensor, mlp: SwiGLU, out: Tensor) -> Tensor:
    return out.copy_(F.gelu(F.linear(x, mlp.gate_proj.weight)) * F.linear(x, mlp.up_proj.weight))


def second_frame(self: TimbreEncoder, x: Tensor, mask: Tensor | None = None) -> Tensor:
    return self.encode(self.embed_tokens(x), mask)[:, 1]


# name: (case, object, attribute, what takes its place)
MUTATIONS: dict[str, tuple[str, Any, str, Any]] = {
    "a window one token wider": (
        "dit_base.even.out",
        attention,
        "band",
        argument("window", attention.band, lambda window: window + 1, 3),
    ),
    "positions of another base": (
        "dit_base.even.out",
        transformer_rows,
        "positions",
        argument("config", layers.positions, lambda config: replace(config, rope_theta=config.rope_theta / 2), 1),
    ),
    "GELU in place of SiLU": ("dit_base.even.out", transformer_rows, "gated", gelu_gate),
    "no gate": (
        "dit_base.even.out",
        transformer_rows,
        "add_product",
        lambda total, x, linear, gate=None: total.add_(F.linear(x, linear.weight)),
    ),
    "norm of the mean, not of its root": (
        "dit_base.even.out",
        transformer_rows,
        "_inverse_rms",
        lambda x, eps: 1 / (x.square().mean(-1, keepdim=True) + eps),
    ),
    "epsilon of a norm": (
        "dit_base.even.out",
        transformer_rows,
        "_inverse_rms",
        argument("eps", transformer_rows._inverse_rms, lambda eps: 1e4 * eps, 1),
    ),
    "a time of 999 parts": (
        "dit_base.even.out",
        TimestepEmbedding,
        "forward",
        argument("t", TimestepEmbedding.forward, lambda t: 0.999 * t, 1),
    ),
    "another token of the timbre encoder": ("cond_base.out_timbre", TimbreEncoder, "forward", second_frame),
    "a tenth of a percent of a snake": (
        "vae.enc_a.mean",
        autoencoder_rows,
        "_snake_factors",
        lambda snake: (1.001 * snake.alpha[0, :, 0].exp(), 1 / snake.beta[0, :, 0].exp()),
    ),
    "a wider resampling filter": (
        "audio.src_44k_mono.wav.every",
        torchaudio.functional,
        "resample",
        partial(torchaudio.functional.resample, lowpass_filter_width=7),
    ),
    "another momentum of guidance": (
        "loop_base.ode_cfg.out",
        sampler,
        "apg",
        partial(guidance.apg, momentum_weight=-0.7),
    ),
    "another limit of guidance": (
        "loop_base.ode_cfg.out",
        sampler,
        "apg",
        partial(guidance.apg, norm_threshold=2.4),
    ),
    "guidance of one more step": (
        "loop_base.interval_on_step.out",
        cover,
        "_in_interval",
        argument("i", cover._in_interval, lambda i: i - 1, 1),
    ),
    "one percent of shift": (
        "loop_base.ode_cfg.t",
        schedule,
        "shifted",
        argument("shift", schedule.shifted, lambda shift: 1.01 * shift, 1),
    ),
    "a switch one step later": (
        "loop_base.switch.out",
        cover,
        "_blended",
        argument(
            "setting", cover._blended, lambda s: replace(s, audio_cover_strength=s.audio_cover_strength + 0.1), 0
        ),
    ),
    "a wavelet correction without its time": (
        "loop_base.dcw.out",
        sampler,
        "dcw",
        argument("t", sampler.dcw, lambda t: 1.0, 2),
    ),
    "noise of the next draw": (
        "loop_turbo.turbo_sde.out",
        sampler._Run,
        "_renoised",
        lambda self, estimate, level: estimate if level == 0 else level * self._draw() + estimate,
    ),
}


def cases(name: str) -> list[Case]:
    return [case for case in all_cases(GOLDEN) if case.name == name]


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_formula_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, place, attribute, wrong = MUTATIONS[name]
    monkeypatch.setattr(place, attribute, wrong)
    [found] = cases(case)
    assert found.difference is not None
    assert found.difference() > MARGIN * found.tolerance


@pytest.mark.parametrize("name", sorted({case for case, *_ in MUTATIONS.values()}))
def test_the_right_one_passes(name: str) -> None:
    [found] = cases(name)
    assert found.difference is not None
    assert found.difference() <= found.tolerance / MARGIN
