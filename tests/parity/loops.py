"""Replay cases of whole sampling loops."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.model.audio_tokenizer import hints
from acestep.model.transformer_layers import Modulation
from acestep.sampling.plan import Branch, CoverPlan, resolve
from acestep.sampling.sampler import Condition, Trajectory, denoise, rotate_noise
from acestep.sampling.setting import CoverSetting
from tests.parity.cases import ROUNDING, Case, Golden, compare
from tests.parity.packing import ragged

KNOWN = frozenset(
    """infer_steps num_inference_steps diffusion_guidance_scale guidance_scale shift audio_cover_strength strength
    cfg_interval_start cfg_interval_end guided_steps is_covers timesteps infer_method note cover_noise_strength
    use_adg sampler_mode dcw velocity_norm_threshold velocity_ema_factor retake_variance""".split()
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

    def guided(
        self, x: Tensor, context: Tensor, modulation: Modulation, cross: Any, null: Any
    ) -> tuple[Tensor, Tensor]:
        both = self.transformer.guided(x, context, modulation, cross, null)
        self.calls.extend((x, velocity) for velocity in both)
        return both


def loop_cases(golden: Golden) -> Iterator[Case]:
    """Cases of every ``loop_<model>`` whose inputs and checkpoint are there."""
    for name, folder in golden.named("loop_*.safetensors"):
        if not golden.has(f"loop_{name}_inputs.safetensors"):
            continue
        reference, inputs = golden.tensors(f"loop_{name}"), golden.tensors(f"loop_{name}_inputs")
        conditions = cache(lambda inputs=inputs, folder=folder: branch_conditions(golden, folder, inputs))
        for branch in ("cover", "text"):
            own = {k.removeprefix(f"{branch}."): v for k, v in reference.items() if k.startswith(f"{branch}.")}
            yield from compare(
                f"loop_{name}.{branch}",
                lambda branch=branch, conditions=conditions: conditions()[branch],
                own,
                ("encoder_hidden_states", "context_latents", "encoder_attention_mask"),
            )
        for case, given in golden.settings(f"loop_{name}").items():
            if f"{case}.out" not in reference:
                continue
            label = f"loop_{name}.{case}"
            if set(given) - KNOWN:
                yield Case(label, ROUNDING, None)
                continue
            own = {k.removeprefix(f"{case}."): v for k, v in reference.items() if k.startswith(f"{case}.")}
            yield from compare(
                label,
                lambda case=case, given=given, reference=reference, inputs=inputs, c=conditions, f=folder: (
                    run_loop(golden, f, case, given, inputs, c(), reference.get("codes"))
                ),
                own,
                ("t", "x", "v", "out"),
            )


def velocity_cases(golden: Golden) -> Iterator[Case]:
    """Cases of every ``loop_<model>_velocity_blend``, made by diffusers on the inputs of ``loop_<model>``."""
    for name, folder in golden.named("loop_*_velocity_blend.safetensors"):
        if not golden.has(f"loop_{name}_inputs.safetensors"):
            continue
        file = f"loop_{name}_velocity_blend"
        reference, inputs = golden.tensors(file), golden.tensors(f"loop_{name}_inputs")
        for case, given in golden.settings(file).items():
            own = {k.removeprefix(f"{case}."): v for k, v in reference.items() if k.startswith(f"{case}.")}
            yield from compare(
                f"{file}.{case}",
                lambda case=case, given=given, inputs=inputs, f=folder: run_loop(
                    golden, f, case, given, inputs, branch_conditions(golden, f, inputs), None
                ),
                own,
                ["out"],
            )


def flow_edit_cases(golden: Golden) -> Iterator[Case]:
    """Cases of ``flow_edit``, on base weights and the inputs of ``loop_base``."""
    folder = golden.model_folder("base")
    if folder is None or not golden.has("flow_edit.safetensors") or not golden.has("loop_base_inputs.safetensors"):
        return
    reference, inputs = golden.tensors("flow_edit"), golden.tensors("loop_base_inputs")
    for case, given in golden.settings("flow_edit").items():
        own = {k.removeprefix(f"{case}."): v for k, v in reference.items() if k.startswith(f"{case}.")}
        yield from compare(
            f"flow_edit.{case}",
            lambda given=given: run_flow_edit(golden, folder, given, inputs, reference),
            own,
            ["out"],
        )


def run_flow_edit(
    golden: Golden,
    folder: Path,
    given: dict[str, Any],
    inputs: dict[str, Tensor],
    reference: dict[str, Tensor],
) -> dict[str, Tensor]:
    """One edit: the loop's inputs are the source side, its text branch with other lyrics the target side."""
    handler = golden.handler(folder)
    setting = CoverSetting(
        audio_cover_strength=1.0,
        guidance_scale=given["guidance_scale"],
        cfg_interval_end=1.0,
        inference_steps=given["infer_steps"],
        shift=given["shift"],
        flow_edit_morph=True,
        flow_edit_source_caption="given as states",
        flow_edit_n_min=given["edit_n_min"],
        flow_edit_n_max=given["edit_n_max"],
        flow_edit_n_avg=given["edit_n_avg"],
    )
    source = branch_conditions(golden, folder, inputs)["cover"]
    lyrics = {"lyric_hidden_states": reference["target_lyric_hidden_states"]}
    target = branch_conditions(golden, folder, inputs | lyrics)["text"]
    noise = reference["fwd_noise"]
    tokens = {"source": source["encoder_hidden_states"], "cover": target["encoder_hidden_states"]}
    trajectories = []
    for row in range(len(inputs["noise"])):
        rows = slice(row, row + 1)
        conditions = {
            Branch(text, "cover"): Condition(
                source["context_latents"][rows], handler.model.decoder.cross_attention(tokens[text][rows])
            )
            for text in tokens
        }
        plan = resolve(setting, is_turbo=False)
        trajectories.append(
            Trajectory(plan, inputs["src_latents"][rows], conditions, lambda k, r=rows: noise[k][r])
        )
    return {"out": torch.cat(denoise(handler.model.decoder, handler.null, trajectories))}


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
        tokens, mask = ragged(
            encoder,
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
    """One loop, each row of the batch as a trajectory of its own."""
    handler = golden.handler(folder)
    model = handler.model
    context = conditions["cover"]["context_latents"]
    if "is_covers" in given:
        changed = inputs | {"is_covers": torch.tensor(given["is_covers"])}
        context = branch_conditions(golden, folder, changed)["cover"]["context_latents"]
    if case == "audio_codes":
        followed = model.detokenizer(model.tokenizer.quantizer.vectors(codes))[:, : context.shape[1]]
        context = torch.cat((followed, inputs["chunk_masks"].float()), dim=-1)
    setting = loop_setting(case, given, handler.is_turbo)
    plan = resolve(setting, handler.is_turbo)
    silence = conditions["text"]["context_latents"]
    share = setting.audio_cover_strength
    contexts = {"cover": context, "silence": silence, "mixed": share * context + (1 - share) * silence}
    tokens = {
        "cover": conditions["cover"]["encoder_hidden_states"],
        "text2music": conditions["text"]["encoder_hidden_states"],
        "mixed": mixed_tokens(handler, inputs, share),
    }
    trajectories = []
    for row in range(len(inputs["noise"])):
        rows = slice(row, row + 1)
        read = {
            branch: Condition(
                contexts[branch.context][rows], model.decoder.cross_attention(tokens[branch.text][rows])
            )
            for branch in plan.branches
        }
        trajectories.append(
            Trajectory(plan, loop_start(plan, inputs, rows), read, lambda k, r=rows: inputs["sde_noise"][k][r])
        )
    recorder = Recorder(model.decoder)
    latents = denoise(recorder, handler.null, trajectories)
    # A recorded call holds the whole batch, ours are one trajectory after the other: for each evaluation, join
    # trajectories.
    calls = [iter(recorder.calls[k * plan.evaluations :]) for k in range(len(trajectories))]
    times, states, velocities = [], [], []
    for step in plan.steps:
        seen = [[next(own) for _ in range(step.evaluations)] for own in calls]
        corrections = step.evaluations // 2 if step.corrected else 0
        halves = [range(step.evaluations - corrections)]
        halves += [range(step.evaluations - corrections, step.evaluations)] if corrections else []
        for half, t in zip(halves, (step.t, step.t_next), strict=False):
            times.append(t)
            states.append(torch.cat([trajectory[half[0]][0] for trajectory in seen]))
            velocities.append(torch.cat([trajectory[k][1] for k in half for trajectory in seen]))
    return {
        "t": torch.tensor(times),
        "x": torch.stack(states),
        "v": torch.stack(velocities) if len({len(v) for v in velocities}) == 1 else torch.empty(0),
        "out": torch.cat(latents),
    }


def mixed_tokens(handler: Any, inputs: dict[str, Tensor], share: float) -> Tensor:
    """Condition tokens of the interpolated text states; both prompts of a golden batch are equally long."""
    return ragged(
        handler.model.encoder,
        share * inputs["text_hidden_states"] + (1 - share) * inputs["non_cover_text_hidden_states"],
        inputs["text_attention_mask"],
        inputs["lyric_hidden_states"],
        inputs["lyric_attention_mask"],
        inputs["refer_audio_acoustic_hidden_states_packed"],
        inputs["refer_audio_order_mask"],
    )[0]


def loop_start(plan: CoverPlan, inputs: dict[str, Tensor], rows: slice) -> Tensor:
    """The state a loop starts from."""
    noise, source = inputs["noise"][rows], inputs["src_latents"][rows]
    if plan.retake is not None:
        noise = rotate_noise(noise, inputs["retake_noise"][rows], plan.retake[1])
    return noise if plan.t_start is None else plan.t_start * noise + (1 - plan.t_start) * source


def loop_setting(case: str, given: dict[str, Any], turbo: bool) -> CoverSetting:
    """Our setting for one reference case; upstream measures the guidance interval on t unless named otherwise."""
    axes = {"on_progress": "one_minus_t", "on_step": "step", "velocity_blend": "one_minus_t"}
    shift, steps = given.get("shift", 1.0), given.get("infer_steps", given.get("num_inference_steps"))
    if turbo and steps is None and "timesteps" not in given:
        shift = min(TURBO_SHIFTS, key=lambda known: abs(known - shift))
    times = given.get("timesteps")
    blends = ("embed_context", "embed", "velocity")
    return CoverSetting(
        audio_cover_strength=given.get("audio_cover_strength", given.get("strength", 1.0)),
        blend=next((blend for blend in blends if case.startswith(blend)), "switch"),
        cover_noise_strength=given.get("cover_noise_strength", 0.0),
        guidance_scale=given.get("diffusion_guidance_scale", given.get("guidance_scale", 1.0)),
        guidance="adg" if given.get("use_adg") else "apg",
        inference_steps=steps,
        shift=shift,
        cfg_interval_start=given.get("cfg_interval_start", 0.0),
        cfg_interval_end=given.get("cfg_interval_end", 1.0),
        cfg_interval_on=next((ours for text, ours in axes.items() if text in case), "t"),
        timesteps=None if times is None else tuple(times),
        infer_method=given.get("infer_method", "ode"),
        sde_time="unshifted",
        sampler_mode=given.get("sampler_mode", "euler"),
        velocity_norm_threshold=given.get("velocity_norm_threshold", 0.0),
        velocity_ema_factor=given.get("velocity_ema_factor", 0.0),
        dcw_enabled="dcw" in given,
        retake_variance=given.get("retake_variance", 0.0),
        retake_seed=0 if "retake_variance" in given else None,
    )
