"""Parameters that were asked for and have no effect, since what they steer is off."""

from collections.abc import Callable
from dataclasses import fields

from acestep.sampling.setting import CoverSetting

# Parameters, when they act, and why they otherwise do not.
_ACTS: tuple[tuple[tuple[str, ...], Callable[[CoverSetting], bool], str], ...] = (
    (("inference_steps", "shift"), lambda s: s.timesteps is None, "timesteps are given"),
    (
        ("guidance", "cfg_interval_start", "cfg_interval_end", "cfg_interval_on"),
        lambda s: s.guidance_scale > 1,
        "guidance_scale is 1",
    ),
    (("sde_time",), lambda s: s.infer_method == "sde", "infer_method is not 'sde'"),
    (("dcw_mode", "dcw_scaler", "dcw_high_scaler"), lambda s: s.dcw_enabled, "dcw_enabled is off"),
    (("retake_seed",), lambda s: s.retake_variance > 0, "retake_variance is 0"),
    (
        (
            "flow_edit_source_caption",
            "flow_edit_source_lyrics",
            "flow_edit_n_min",
            "flow_edit_n_max",
            "flow_edit_n_avg",
        ),
        lambda s: s.flow_edit_morph,
        "flow_edit_morph is off",
    ),
    (
        ("audio_cover_strength", "blend"),
        lambda s: not s.flow_edit_morph,
        "flow-edit sees the source throughout",
    ),
    (("blend",), lambda s: s.audio_cover_strength < 1, "audio_cover_strength is 1"),
)
_DEFAULTS = {field.name: field.default for field in fields(CoverSetting)}


def ineffective_notes(setting: CoverSetting) -> list[str]:
    """A note for each parameter that is not at its default and does nothing beside the others."""
    return [
        f"{name} {getattr(setting, name)!r} has no effect: {why}"
        for names, acts, why in _ACTS
        if not acts(setting)
        for name in names
        if getattr(setting, name) != _DEFAULTS[name]
    ]
