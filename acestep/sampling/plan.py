"""Resolve a requested setting to a plan: what each step evaluates on a given model. Contains no tensors."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from acestep.constants import MAX_TURBO_STEPS
from acestep.errors import RequestError
from acestep.parameters.declaration import ineffective_notes
from acestep.sampling import schedule
from acestep.sampling.effect_conditions import CONDITIONS
from acestep.sampling.setting import PARAMETERS, CoverSetting

BASE_STEPS = 28
DERIVED_FROM_STEPS = frozenset({"notes", "shift", "inference_steps", "cover_steps", "t_switch"})


@dataclass(frozen=True)
class Branch:
    """One evaluation of the network: prompt and context.

    text: "cover" or "text2music" (the instruction), "source" (flow-edit's caption of the source), or "mixed".
    context: "cover" (the source's codes), "cover-nofsq" (its latents), "silence", or "mixed" (codes or latents
        interpolated with silence).
    task, strength: context that "mixed" interpolates with silence, and the weight of the source.
    """

    text: str
    context: str
    task: str = ""
    strength: float = 1.0


@dataclass(frozen=True)
class Step:
    """One step from flow time ``t`` to ``t_next``.

    branch, guided: evaluated branch, and whether the unconditional velocity is evaluated too.
    other, weight: second, unguided branch of the "velocity" blend; ``weight`` is that of the first.
    renoise: noise level at the end of an SDE step; None for the ODE.
    corrected, correction_guided: whether Heun's second evaluation at ``t_next`` runs, and with guidance.
    edit_from, draws: flow-edit's source branch, and the number of averaged noise draws.
    """

    t: float
    t_next: float
    branch: Branch
    guided: bool
    other: Branch | None = None
    weight: float = 1.0
    renoise: float | None = None
    corrected: bool = False
    correction_guided: bool = False
    edit_from: Branch | None = None
    draws: int = 1

    @property
    def branches(self) -> tuple[Branch, ...]:
        return tuple(b for b in (self.branch, self.other, self.edit_from) if b is not None)

    @property
    def evaluations(self) -> int:
        if self.edit_from is not None:
            return 2 * self.draws * (1 + self.guided)
        plain = 1 + (self.other is not None)
        return plain + self.guided + self.corrected * (plain + self.correction_guided)


@dataclass(frozen=True)
class Dcw:
    """Wavelet correction: see ``acestep.sampling.dcw.dcw``."""

    mode: str
    scaler: float
    high_scaler: float


@dataclass(frozen=True)
class CoverPlan:
    """Effective parameters and steps of a setting on a given model.

    inference_steps: number of steps; fewer than requested if the run starts from the noised source.
    cover_steps: number of steps that follow the source.
    t_start: flow time of the noised source at the start; None starts from pure noise.
    t_switch: flow time from which the source is not followed any more; None if it is followed throughout.
    retake: seed and variance (0..1) of the noise towards which the initial noise is rotated.
    edit: caption and lyrics of the source for flow-edit.
    notes: requested values without effect or with another effect.
    """

    guidance: str
    guidance_scale: float
    inference_steps: int
    shift: float | None
    cover_steps: int
    t_start: float | None
    t_switch: float | None
    steps: tuple[Step, ...]
    reference_pick: str
    velocity_norm_threshold: float = 0.0
    velocity_ema_factor: float = 0.0
    dcw: Dcw | None = None
    retake: tuple[int, float] | None = None
    edit: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """Fields that determine the samples. A new one changes all item ids: leave it out at its default."""
        return {name: value for name, value in asdict(self).items() if name not in DERIVED_FROM_STEPS}

    @property
    def branches(self) -> frozenset[Branch]:
        return frozenset(branch for step in self.steps for branch in step.branches)

    @property
    def evaluations(self) -> int:
        return sum(step.evaluations for step in self.steps)

    @property
    def needs_source(self) -> bool:
        """Whether the plan reads source latents, not only codes."""
        contexts = {b.context for b in self.branches} | {b.task for b in self.branches}
        return self.t_start is not None or self.edit is not None or "cover-nofsq" in contexts


def resolve(setting: CoverSetting, is_turbo: bool) -> CoverPlan:
    """What ``setting`` means on a model.

    Raises:
        RequestError: the model cannot do what is asked.
    """
    notes = ineffective_notes(PARAMETERS, setting, CONDITIONS)
    times, shift = _times(setting, is_turbo, notes)
    guidance = _guidance_scale(setting, is_turbo, notes)
    n = len(times) - 1
    if is_turbo and setting.infer_method == "sde" and setting.sde_time == "unshifted":
        notes.append("sde_time 'unshifted' has no effect: turbo models return to the scheduled time")
    if setting.flow_edit_morph:
        steps, t_start = _edited(setting, times, guidance, is_turbo), None
        cover_steps = len(steps)
    else:
        first, t_start = _start(setting, times, notes)
        steps = tuple(_step(setting, times, i, guidance, is_turbo) for i in range(first, n))
        steps, cover_steps = _blended(setting, steps, guidance, notes)
    if guidance > 1.0 and not any(step.guided for step in steps):
        notes.append(
            f"guidance_scale {guidance:g} has no effect: no step lies in the interval "
            f"[{setting.cfg_interval_start:g}, {setting.cfg_interval_end:g}]"
        )
    guided = any(step.guided or step.correction_guided for step in steps)
    source_text = (setting.flow_edit_source_caption, setting.flow_edit_source_lyrics)
    return CoverPlan(
        guidance=setting.guidance if any(step.guided for step in steps) else "cfg" if guided else "none",
        guidance_scale=guidance if guided else 1.0,
        inference_steps=len(steps),
        shift=shift,
        cover_steps=cover_steps,
        t_start=t_start,
        t_switch=next((step.t for step in steps if step.branch.context == "silence"), None),
        steps=steps,
        reference_pick=setting.reference_pick,
        velocity_norm_threshold=setting.velocity_norm_threshold,
        velocity_ema_factor=setting.velocity_ema_factor,
        dcw=Dcw(setting.dcw_mode, setting.dcw_scaler, setting.dcw_high_scaler) if setting.dcw_enabled else None,
        retake=_retake(setting, notes),
        edit=source_text if setting.flow_edit_morph else None,
        notes=tuple(notes),
    )


def _retake(setting: CoverSetting, notes: list[str]) -> tuple[int, float] | None:
    if setting.retake_seed is None or setting.retake_variance == 0:
        return None
    if setting.retake_variance == 1:
        notes.append(
            "seed has no effect on the start: retake_variance 1 replaces its noise by that of retake_seed"
        )
    return setting.retake_seed, setting.retake_variance


def _times(setting: CoverSetting, is_turbo: bool, notes: list[str]) -> tuple[tuple[float, ...], float | None]:
    if setting.timesteps is not None:
        times = schedule.explicit_turbo(setting.timesteps) if is_turbo else setting.timesteps
        if setting.timesteps not in (times, times[:-1]):
            notes.append(f"timesteps run as {[round(t, 6) for t in times]}: turbo models support 20 timesteps")
        return times, None
    steps = setting.inference_steps or (schedule.TURBO_STEPS if is_turbo else BASE_STEPS)
    if is_turbo and steps > MAX_TURBO_STEPS:
        notes.append(f"inference_steps {steps} is cut to {MAX_TURBO_STEPS}, the most a turbo model takes")
        steps = MAX_TURBO_STEPS
    elif is_turbo and steps > schedule.TURBO_STEPS:
        notes.append(f"inference_steps {steps}: turbo models were distilled for {schedule.TURBO_STEPS}")
    if is_turbo and setting.shift <= 1:
        # The model's configuration does not state the variant.
        notes.append(f"shift {setting.shift:g}: turbo models are made for shift 3 (turbo_shift1 alone for 1)")
    return schedule.shifted(steps, setting.shift), setting.shift


def _guidance_scale(setting: CoverSetting, is_turbo: bool, notes: list[str]) -> float:
    if is_turbo and setting.guidance_scale != 1.0:
        notes.append(
            f"guidance_scale {setting.guidance_scale:g} has no effect: turbo models have guidance built in; "
            "1 is used"
        )
    return 1.0 if is_turbo else setting.guidance_scale


def _start(setting: CoverSetting, times: tuple[float, ...], notes: list[str]) -> tuple[int, float | None]:
    """Index of the first step, and flow time of the noised source (None for noise)."""
    if setting.cover_noise_strength == 0:
        return 0, None
    first = schedule.nearest(times[:-1], 1 - setting.cover_noise_strength)
    if first == 0 and times[0] == 1:
        notes.append(
            f"cover_noise_strength {setting.cover_noise_strength:g} has no effect: the nearest flow time is 1, "
            "which is noise alone"
        )
        return 0, None
    return first, times[first]


def _step(setting: CoverSetting, times: tuple[float, ...], i: int, guidance: float, is_turbo: bool) -> Step:
    n = len(times) - 1
    level = times[i + 1] if setting.sde_time == "scheduled" or is_turbo else 1 - (i + 1) / n
    corrected = setting.sampler_mode == "heun" and not (is_turbo and i == n - 1)
    return Step(
        t=times[i],
        t_next=times[i + 1],
        branch=Branch("cover", setting.task_type),
        guided=guidance > 1.0 and _in_interval(setting, i, n, times[i]),
        renoise=level if setting.infer_method == "sde" else None,
        corrected=corrected,
        correction_guided=corrected and guidance > 1.0 and _in_interval(setting, i + 1, n, times[i + 1]),
    )


def _in_interval(setting: CoverSetting, i: int, n: int, t: float) -> bool:
    position = {"step": i / n, "t": t, "one_minus_t": 1 - t}[setting.cfg_interval_on]
    return setting.cfg_interval_start <= position <= setting.cfg_interval_end


def _blended(
    setting: CoverSetting, steps: tuple[Step, ...], guidance: float, notes: list[str]
) -> tuple[tuple[Step, ...], int]:
    """Apply ``blend`` and ``audio_cover_strength``; also return the number of steps that follow the source."""
    strength, task, n = setting.audio_cover_strength, setting.task_type, len(steps)
    if strength == 1:
        return steps, n
    if setting.blend == "switch":
        cover_steps = int(n * strength)
        if strength > 0 and cover_steps == 0:
            notes.append(
                f"audio_cover_strength {strength:g} of {n} steps is less than one step: the source is not followed"
            )
        text = Branch("text2music", "silence")
        text_steps = tuple(replace(step, branch=text) for step in steps[cover_steps:])
        return steps[:cover_steps] + text_steps, cover_steps
    if setting.blend == "velocity":
        text = Branch("text2music", task)
        if strength > 0:
            return tuple(replace(step, other=text, weight=strength) for step in steps), n
        if guidance > 1:
            notes.append(
                f"guidance_scale {guidance:g} has no effect: at strength 0 the velocity blend is all text, and "
                "that is unguided"
            )
        return tuple(replace(s, branch=text, guided=False, correction_guided=False) for s in steps), n
    context = "mixed" if setting.blend == "embed_context" else task
    mixed = Branch("mixed", context, task, strength)
    if strength == 0:
        mixed = Branch("text2music", "silence" if context == "mixed" else task)
    cover_steps = 0 if mixed.context == "silence" else n
    return tuple(replace(step, branch=mixed) for step in steps), cover_steps


def _edited(setting: CoverSetting, times: tuple[float, ...], guidance: float, is_turbo: bool) -> tuple[Step, ...]:
    if is_turbo:
        remedy = "use a base or sft model"
        raise RequestError("not_supported", "needs guidance, which turbo models lack", remedy, "flow_edit_morph")
    n = len(times) - 1
    first, end = int(n * setting.flow_edit_n_min), int(n * setting.flow_edit_n_max)
    if first >= n:
        reason = "leaves no step to run"
        raise RequestError("invalid_value", reason, "lower it", "flow_edit_n_min", setting.flow_edit_n_min)
    source, target = Branch("source", setting.task_type), Branch("cover", setting.task_type)
    return tuple(
        Step(
            t=times[i],
            t_next=times[i + 1],
            branch=target,
            guided=guidance > 1.0 and _in_interval(setting, i, n, times[i]),
            edit_from=source if i < end else None,
            draws=setting.flow_edit_n_avg if i < end else 1,
        )
        for i in range(first, n)
    )


def plan_values(plan: CoverPlan) -> dict[str, Any]:
    """A plan as plain data, without steps and notes."""
    return {name: value for name, value in asdict(plan).items() if name not in ("steps", "notes")}
