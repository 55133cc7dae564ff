"""Writes the job file: the parameters of a launch, its settings and versions."""

import json
import logging
import os
import time
import uuid
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from acestep.constants import NUMERICS_VERSION
from acestep.generation.stages import WORDS
from acestep.redaction import redacted, redacted_values
from pipeline.catalogue.grid import Setting, own_names
from pipeline.cluster.pool import Pool
from pipeline.planning.items import ModelFacts
from pipeline.results.job_file_reader import JOB_FILE, folder_of, tracking_key
from pipeline.storage.store import Store

if TYPE_CHECKING:
    from pipeline.workflows.specs import RestyleJob

log = logging.getLogger(__name__)
PACKAGES = ("torch", "torchaudio", "transformers", "ray", "pyarrow", "mlflow", "soundfile", "av")


def job_parameters(job: "RestyleJob", model: ModelFacts, settings: list[Setting]) -> dict[str, Any]:
    """The effective parameters that all settings of a job share, by name."""
    first = settings[0].plans(model.is_turbo)[-1]
    values = settings[0].values() | {
        "inference_steps": first.inference_steps,
        "guidance_scale": first.guidance_scale,
    }
    differs = {*settings[0].varied, *own_names(settings[-1].stages), *WORDS}
    constant = {name: value for name, value in values.items() if name not in differs}
    constant["seed"] = ", ".join(map(str, dict.fromkeys(setting.seed for setting in settings)))
    if job.adapter:
        constant |= {"adapter": job.adapter, "adapter_scale": job.adapter_scale}
    if job.compiled:
        constant["compiled"] = True
    return constant | {
        "manifest": redacted(job.manifest),
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "dtype": model.dtype,
        "numerics_version": NUMERICS_VERSION,
        "audio_format": job.audio_format,
        "settings": len({setting.setting_id for setting in settings}),
    }


def job_labels(job: "RestyleJob", settings: list[Setting]) -> dict[str, str]:
    """Tags by which runs are found and grouped."""
    kinds = dict.fromkeys(setting.cover.task_type for setting in settings)
    return {
        "restyle.catalogue": job.name,
        "restyle.model": job.model,
        "restyle.preset": job.preset or "none",
        "restyle.cover_kind": ", ".join(kinds),
    }


def write_pairs_file(pairs: str, output: Store) -> None:
    """Write the job file of a folder with covers from a list of pairs."""
    content = {
        "catalogue": redacted(pairs).rsplit("/", 1)[-1].rsplit(".", 1)[0],
        "parameters": {"manifest": redacted(pairs)},
        "labels": {},
        "job": {"manifest": redacted(pairs)},
    }
    output.write(JOB_FILE, json.dumps(content, indent=2).encode())


def write_job_file(
    job: "RestyleJob", output: Store, model: ModelFacts, pool: Pool, settings: list[Setting]
) -> None:
    """Write the job file of this launch."""
    folder = folder_of(output, job.output)
    # A new folder gets a new key, since another folder may have had the same path before.
    key = tracking_key(output, folder) if output.exists(JOB_FILE) else uuid.uuid4().hex[:16]
    content = {
        "catalogue": job.name,
        "folder": folder,
        "tracking_key": key,
        "parameters": job_parameters(job, model, settings),
        "labels": job_labels(job, settings),
        "job": job,
        "model": asdict(model),
        "pool": asdict(pool),
        "settings": [
            {"setting_id": s.setting_id, "name": s.name, "stands_for": s.stands_for, **s.values()}
            for s in settings
        ],
        "versions": {name: version(name) for name in PACKAGES} | {"numerics": NUMERICS_VERSION},
        "mkl_cbwr": os.environ.get("MKL_CBWR"),
        "cuda": torch.version.cuda,
        "launched_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    # default=sorted converts sets of track ids.
    output.write(JOB_FILE, json.dumps(redacted_values(content), indent=2, default=sorted).encode())
