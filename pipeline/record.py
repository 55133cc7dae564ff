"""What a launch leaves in writing about itself: the job's parameters and its file."""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from acestep.constants import NUMERICS_VERSION
from acestep.errors import RestyleError
from acestep.stages import WORDS
from acestep.values import from_json
from pipeline.cluster import Pool
from pipeline.items import ModelFacts
from pipeline.passwords import shown
from pipeline.settings import Setting, own_names
from pipeline.storage import Store, open_store

if TYPE_CHECKING:
    from pipeline.job import RestyleJob

JOB_FILE = "job.json"
PACKAGES = ("torch", "torchaudio", "transformers", "ray", "pyarrow", "mlflow", "soundfile", "av")


def job_parameters(job: "RestyleJob", model: ModelFacts, settings: list[Setting]) -> dict[str, Any]:
    """What is the same for all settings of a job, by name, as it really runs."""
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
        "manifest": job.manifest,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "dtype": model.dtype,
        "numerics_version": NUMERICS_VERSION,
        "audio_format": job.audio_format,
        "settings": len({setting.setting_id for setting in settings}),
    }


def job_labels(job: "RestyleJob", settings: list[Setting]) -> dict[str, str]:
    """What runs are found and grouped by."""
    kinds = dict.fromkeys(setting.cover.task_type for setting in settings)
    return {
        "restyle.catalogue": job.name,
        "restyle.model": job.model,
        "restyle.preset": job.preset or "none",
        "restyle.cover_kind": ", ".join(kinds),
    }


def read_record(output: Store) -> dict[str, Any]:
    """What the folder's own job wrote down about itself."""
    empty: dict[str, Any] = {"catalogue": None, "parameters": {}, "labels": {}}
    return empty | (from_json(output.read(JOB_FILE)) if output.exists(JOB_FILE) else {})


def folder_of(output: Store, uri: str) -> str:
    """How an output folder is named in what is written about it: by an absolute path, or a URI."""
    return uri if "://" in uri else output.root


def tracking_key(output: Store, folder: str) -> str:
    """What the runs of an output folder are found by: what its ``job.json`` says, wherever the folder was moved.

    A copy, whose original is still there, goes by its place, as does a folder whose file says nothing.
    """
    record = _read_or_nothing(output)
    key, home = record.get("tracking_key"), record.get("folder")
    if key and home and (home == folder or _key_at(home) != key):
        return str(key)
    return hashlib.sha256(folder.encode()).hexdigest()[:16]


def _key_at(folder: str) -> str | None:
    try:
        found: str | None = _read_or_nothing(open_store(folder)).get("tracking_key")
    except (RestyleError, OSError):
        return None
    return found


def _read_or_nothing(output: Store) -> Mapping[str, Any]:
    try:
        return read_record(output)
    except ValueError:  # cut short by an earlier launch's death; this launch writes it anew
        return {}


def write_pairs_file(pairs: str, output: Store) -> None:
    """Write down where a folder's rows come from, when no job of ours made the covers."""
    content = {
        "catalogue": pairs.rsplit("/", 1)[-1].rsplit(".", 1)[0],
        "parameters": {"manifest": pairs},
        "labels": {},
        "job": {"manifest": pairs},
    }
    output.write(JOB_FILE, json.dumps(content, indent=2).encode())


def write_job_file(
    job: "RestyleJob", output: Store, model: ModelFacts, pool: Pool, settings: list[Setting]
) -> None:
    """Write down what this launch runs, for whoever opens the folder later."""
    folder = folder_of(output, job.output)
    # Another folder may have been at the place of a new one before.
    key = tracking_key(output, folder) if output.exists(JOB_FILE) else uuid.uuid4().hex[:16]
    configuration = asdict(job)
    if job.tracking.uri is not None:
        configuration["tracking"]["uri"] = shown(job.tracking.uri)
    content = {
        "catalogue": job.name,
        "folder": folder,
        "tracking_key": key,
        "parameters": job_parameters(job, model, settings),
        "labels": job_labels(job, settings),
        "job": configuration,
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
    output.write(JOB_FILE, json.dumps(content, indent=2, default=sorted).encode())  # sets of track ids
