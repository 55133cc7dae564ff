"""Replay cases of whole sampling loops."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.cover import CoverSetting, resolve
from acestep.sampler import Branch, Lane, denoise
from acestep.tokenizer import hints
from acestep.transformer import Modulation
from tests.parity.cases import LOOP, MODULE, Case, Golden, compare

SUPPORTED = frozenset(
    {
        "infer_steps",
        "diffusion_guidance_scale",
        "shift",
        "audio_cover_strength",
        "cfg_interval_start",
        "cfg_interval_end",
        "guided_steps",
        "is_covers",
        "timesteps",
        "infer_method",
        "note",
    }
)
TURBO_SHIFTS = (1.0, 2.0, 3.0)  # a turbo reference without a step count rounds to the nearest of these


class Recorder:
    """A transformer that remembers what it was asked and what it answered."""

    def __init__(self, transformer: Any):
        self.transformer = transformer
        self.calls: list[tuple[Tensor, Tensor]] = []

    def modulation(self, t: Tensor) -> Modulation:
        return self.transformer.modulation(t)

    def __call__(self, x: Tensor, context: Tensor, modulation: Modulation, cross: Any) -> Tensor:
        velocity = self.transformer(x, context, modulation, cross)
        self.calls.append((x, velocity))
        return velocity


def loop_cases(golden: Golden) -> Iterator[Case]:
    """Cases of every ``loop_<model>`` whose inputs and checkpoint are there."""
    for name, folder in golden.named("loop_*.safetensors"):
        if not golden.has(f"loop_{name}_inputs.safetensors"):
            continue
        reference, inputs = golden.tensors(f"loop_{name}"), golden.tensors(f"loop_{name}_inputs")
        conditions = cache(lambda inputs=inputs, folder=folder: branch_conditions(golden, folder, inputs))
        for branch in ("cover", "text"):
            own = {k.removeprefix(f"{branch}."): v for k, v in reference.items() if k.startswith(f"{branch}.")}
            tolerances = dict.fromkeys(("encoder_hidden_states", "context_latents"), MODULE)
            tolerances["encoder_attention_mask"] = 0.0
            yield from compare(
                f"loop_{name}.{branch}",
                lambda branch=branch, conditions=conditions: conditions()[branch],
                own,
                tolerances,
            )
        for case, given in golden.settings(f"loop_{name}").items():
            if f"{case}.out" not in reference:
                continue
            label = f"loop_{name}.{case}"
            if (set(given) - SUPPORTED) or given.get("infer_method", "ode") != "ode":
                yield Case(label, LOOP, None)
                continue
            own = {k.removeprefix(f"{case}."): v for k, v in reference.items() if k.startswith(f"{case}.")}
            yield from compare(
                label,
                lambda case=case, given=given, reference=reference, inputs=inputs, c=conditions, f=folder: (
                    run_loop(golden, f, case, given, inputs, c(), reference.get("codes"))
                ),
                own,
                {"t": 1e-6, "x": LOOP, "v": LOOP, "out": LOOP},
            )


def branch_conditions(golden: Golden, folder: Path, inputs: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Condition tokens, masks and contexts of both branches, from the raw inputs of a loop file."""
    handler = golden.handler(folder)
    encoder, model = handler.model.encoder, handler.model
    source, chunk = inputs["src_latents"], inputs["chunk_masks"].float()
    followed = hints(model.tokenizer, model.detokenizer, source, handler.silence)
    covers = inputs["is_covers"].bool()[:, None, None]
    silence = handler.silence_frames(source.shape[1]).expand_as(source)
    contexts = {"cover": torch.where(covers, followed, source), "text": silence}
    out = {}
    for branch, prefix in (("cover", ""), ("text", "non_cover_")):
        tokens, mask = encoder.ragged(
            inputs[f"{prefix}text_hidden_states"],
            inputs[f"{prefix}text_attention_mask"],
            inputs["lyric_hidden_states"],
            inputs["lyric_attention_mask"],
            inputs["refer_audio_acoustic_hidden_states_packed"],
            inputs["refer_audio_order_mask"],
        )
        out[branch] = {
            "encoder_hidden_states": tokens,
            "encoder_attention_mask": mask,
            "context_latents": torch.cat((contexts[branch], chunk), dim=-1),
        }
    return out


def run_loop(
    golden: Golden,
    folder: Path,
    case: str,
    given: dict[str, Any],
    inputs: dict[str, Tensor],
    conditions: dict[str, dict[str, Tensor]],
    codes: Tensor | None,
) -> dict[str, Tensor]:
    """One loop, each row of the batch as a lane of its own."""
    handler = golden.handler(folder)
    model = handler.model
    context = conditions["cover"]["context_latents"]
    if "is_covers" in given:
        changed = inputs | {"is_covers": torch.tensor(given["is_covers"])}
        context = branch_conditions(golden, folder, changed)["cover"]["context_latents"]
    if case == "audio_codes":
        followed = model.detokenizer(model.tokenizer.quantizer.vectors(codes))[:, : context.shape[1]]
        context = torch.cat((followed, inputs["chunk_masks"].float()), dim=-1)
    plan = resolve(loop_setting(case, given, handler.is_turbo), handler.is_turbo)
    contexts = {"cover": context, "text": conditions["text"]["context_latents"]}
    lanes = []
    for row in range(len(inputs["noise"])):
        rows = slice(row, row + 1)
        branches = {
            name: Branch(
                contexts[name][rows],
                model.decoder.cross_attention(conditions[name]["encoder_hidden_states"][rows]),
            )
            for name in contexts
        }
        lanes.append(Lane(inputs["noise"][rows], plan, branches))
    recorder = Recorder(model.decoder)
    latents = denoise(recorder, handler.null, lanes)
    calls = iter(recorder.calls)
    states, velocities = [], []
    for step in plan.steps:
        seen = [[next(calls) for _ in range(1 + step.guided)] for _ in lanes]
        states.append(torch.cat([lane[0][0] for lane in seen]))
        velocities.append(torch.cat([lane[half][1] for half in range(1 + step.guided) for lane in seen]))
    return {
        "t": torch.tensor([step.t for step in plan.steps]),
        "x": torch.stack(states),
        "v": torch.stack(velocities) if len({len(v) for v in velocities}) == 1 else torch.empty(0),
        "out": torch.cat(latents),
    }


def loop_setting(case: str, given: dict[str, Any], turbo: bool) -> CoverSetting:
    """Our setting for one reference case; upstream measures the guidance interval on t unless named otherwise."""
    axes = {"on_progress": "one_minus_t", "on_step": "step"}
    axis = next((ours for text, ours in axes.items() if text in case), "t")
    shift, steps = given.get("shift", 1.0), given.get("infer_steps")
    if turbo and steps is None and "timesteps" not in given:
        shift = min(TURBO_SHIFTS, key=lambda known: abs(known - shift))
    times = given.get("timesteps")
    return CoverSetting(
        audio_cover_strength=given.get("audio_cover_strength", 1.0),
        guidance_scale=given.get("diffusion_guidance_scale", 1.0),
        inference_steps=steps,
        shift=shift,
        cfg_interval_start=given.get("cfg_interval_start", 0.0),
        cfg_interval_end=given.get("cfg_interval_end", 1.0),
        cfg_interval_on=axis,
        timesteps=None if times is None else tuple(times),
    )
