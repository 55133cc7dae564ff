"""Loads the models of a worker, and checks their weights against the plan."""

import platform

from acestep.checkpoints import hub
from acestep.errors import RestyleError
from acestep.handler import AceStepHandler
from acestep.language.language_model import LanguageModel
from acestep.runtime.timing import Stopwatch
from pipeline.planning.model_files import find_model_files
from pipeline.worker.spec import WorkerSpec


def load_models(spec: WorkerSpec, stopwatch: Stopwatch) -> tuple[AceStepHandler, LanguageModel | None]:
    """Load the model and the language model.

    Raises:
        RestyleError: a model cannot be loaded, or has other weights than planned.
    """
    model = spec.model
    handler = AceStepHandler.from_checkpoint(
        model.name, spec.variant, spec.device, model.dtype, spec.adapter, spec.adapter_scale, model.compiled
    )
    stopwatch.lap("model")
    language_model = None
    if spec.language_model:
        folder = hub.find_language_model(spec.language_model)
        language_model = LanguageModel.from_checkpoint(folder, handler.device, handler.dtype)
    stopwatch.lap("language model")
    _refuse_other_weights(spec)  # after loading, since files may change until then
    stopwatch.lap("check of the weights")
    return handler, language_model


def _refuse_other_weights(spec: WorkerSpec) -> None:
    """Check that the weights are those that the items were planned with."""
    planned = spec.model
    files = find_model_files(planned.name, spec.variant, spec.adapter, spec.language_model)
    if files.stamp() == planned.stamp:
        return
    for name, found, expected in (
        (planned.name, files.fingerprint(spec.adapter_scale), planned.fingerprint),
        (spec.language_model, files.language_model_fingerprint(), planned.language_model),
    ):
        if found != expected:
            remedy = "give all nodes the same weights, or launch again where they were replaced meanwhile"
            reason = f"node {platform.node()} has another {name} ({found}, planned was {expected})"
            raise RestyleError("mismatched_weights", reason, remedy)
