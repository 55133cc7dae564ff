"""Train the built-in model from nothing: songs, latents, network, checkpoints in the published layout.

    python -m jobs.train_demo output=outputs/train_demo
    python -m jobs.train_demo output=outputs/train_demo stage=base device=cuda
    python -m jobs.train_demo output=outputs/train_demo stage=evaluate
    python -m jobs.train_demo output=outputs/train_demo stage=publish
    python -m jobs.train_demo output=/tmp/small steps=small

Stages, in order: songs, teacher, encoder, decoder, refined_decoder, latents, base, turbo, export; ``stage=all`` is
all of them. ``stage=evaluate`` measures what is exported on songs that were not trained on. ``stage=publish``
makes it the built-in model of this checkout: it copies the files into the package and pins their digest.

Encoder and decoder do not depend on each other, so two processes can train them at the same time. Training goes on
from the last checkpoint; where it was stopped does not change the result. With ``steps=small`` everything runs
through in a minute, and the result is noise. ``plan.*`` changes amounts: ``plan.base_steps=20000``.

Rendering the songs needs the fluidsynth command and the FluidR3 soundfont. The stages base and turbo read
``latents_*.safetensors`` and ``tokenizer.json`` alone, and run on a GPU with ``device=cuda``.

Exit status: 0 done; 2 could not start; 130 interrupted (143 by SIGTERM, 129 by SIGHUP), the same command goes on.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from acestep.errors import RequestError
from acestep.parameters.suggestions import nearest
from jobs.config_keys import complete
from jobs.exit_status import OK, exit_on_error
from jobs.runner import launch
from pipeline.demo_model.plan import PLANS, Plan
from pipeline.workflows.printing import plain_console

log = logging.getLogger(__name__)
ALL, EVALUATE, PUBLISH = "all", "evaluate", "publish"


def run(config: DictConfig) -> int:
    """Do the job; the exit status."""
    console = plain_console()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_on_error():
        values = complete(config)
        import torch

        from acestep.checkpoints import demo
        from acestep.handler import pick_device
        from pipeline.demo_model.curves import curves
        from pipeline.demo_model.evaluation import Scope, evaluate_training
        from pipeline.demo_model.publish import publish
        from pipeline.demo_model.stages import STAGES
        from pipeline.demo_model.training import log_losses
        from pipeline.demo_model.training_folder import Training

        _check_choice("stage", values["stage"], (ALL, *STAGES, EVALUATE, PUBLISH))
        if values["threads"] is not None:
            torch.set_num_threads(values["threads"])
        plan = plan_of(values["steps"], values["plan"])
        root = Path(values["output"]).expanduser()
        root.mkdir(parents=True, exist_ok=True)
        reporters = [log_losses(root)]
        if values["tracking_uri"]:
            reporters.append(curves(values["tracking_uri"], str(root.absolute())))
        training = Training(root, plan, values["seed"], pick_device(values["device"]), reporters)
        if values["stage"] == EVALUATE:
            console.print(evaluate_training(training, Scope(values["seeds"]), log.info))
            return OK
        if values["stage"] == PUBLISH:
            console.print(f"digest {publish(training.checkpoints)}, in {demo.FOLDER}")
            return OK
        for stage in STAGES if values["stage"] == ALL else (values["stage"],):
            console.print(f"stage {stage}")
            STAGES[stage](training)
    return OK


def plan_of(name: str, changes: Mapping[str, Any]) -> Plan:
    """The plan of a name, with changes.

    Raises:
        RequestError: there is no such plan, or an amount is too small.
    """
    _check_choice("steps", name, tuple(PLANS))
    given = {key: value for key, value in changes.items() if value is not None}
    for key, value in given.items():
        if value < 0 or (value == 0 and key != "save_every_s"):
            raise RequestError("out_of_range", "is too small", "give more than 0", f"plan.{key}", value)
    return dataclasses.replace(PLANS[name], **given)


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        close = nearest(str(value), allowed)
        hint = f"did you mean {' or '.join(close)}?" if close else f"one of {', '.join(allowed)}"
        raise RequestError("unknown_value", "", hint, name, value)


def main() -> None:
    """Run, as ``launch`` says."""
    launch("train_demo", run)


if __name__ == "__main__":
    main()
