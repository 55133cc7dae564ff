"""Conditions under which the parameters of a cover have an effect, in the order of their notes."""

from acestep.parameters.declaration import Requirement

WITH_GUIDANCE = "base, sft"  # turbo models are distilled with guidance
TIMES_ARE_OPEN = Requirement(lambda s: s.timesteps is None, "timesteps are given")
GUIDED = Requirement(lambda s: s.guidance_scale > 1, "guidance_scale is 1", WITH_GUIDANCE)
SDE = Requirement(lambda s: s.infer_method == "sde", "infer_method is not 'sde'")
DCW = Requirement(lambda s: s.dcw_enabled, "dcw_enabled is off")
RETAKEN = Requirement(lambda s: s.retake_variance > 0, "retake_variance is 0")
EDITED = Requirement(lambda s: s.flow_edit_morph, "flow_edit_morph is off", WITH_GUIDANCE)
NOT_EDITED = Requirement(lambda s: not s.flow_edit_morph, "flow-edit uses the source at every step")
BLENDED = Requirement(lambda s: s.audio_cover_strength < 1, "audio_cover_strength is 1")
CONDITIONS = (TIMES_ARE_OPEN, GUIDED, SDE, DCW, RETAKEN, EDITED, NOT_EDITED, BLENDED)
