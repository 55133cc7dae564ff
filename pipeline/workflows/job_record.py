"""What a launch leaves in writing about itself: the job's parameters and its file."""

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from acestep.constants import NUMERICS_VERSION
from acestep.errors import RestyleError
from acestep.generation.chain import WORDS
from acestep.parameters.values import from_json
from acestep.redaction import hidden, shown
from pipeline.catalogue.grid import Setting, own_names
from pipeline.cluster.pool import Pool
from pipeline.planning.items import ModelFacts
from pipeline.storage.store import Store, open_store

if TYPE_CHECKING:
    from pipeline.workflows.restyle_job import RestyleJob

JOB_FILE = "job.json"
_SHAPE = {
    "catalogue": str,
    "parameters": dict,
    "labels": dict,
    "folder": str,
    "tracking_key": str,
    "job": {"manifest": str, "tracking": {"experiment": str}},
}
log = logging.getLogger(__name__)
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
        "manifest": shown(job.manifest),
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


def read_record(output: Store, warn: Callable[[str], None] = log.warning) -> dict[str, Any]:
    """What the folder's own job wrote down about itself; nothing where there is no job file, or a damaged one.

    Args:
        warn: is told of a damaged one.
    """
    empty: dict[str, Any] = {"catalogue": None, "parameters": {}, "labels": {}, "job": {}}
    try:
        found = from_json(output.read(JOB_FILE))
        _check_shape(found)
    except FileNotFoundError:
        return empty
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and not output.is_local:
            raise
        warn(
            f"{output.path(JOB_FILE)} is damaged ({error}) and not used; the next jobs.restyle or jobs.measure "
            "pairs= on this folder writes it anew"
        )
        return empty
    return empty | {name: value for name, value in found.items() if value is not None}


def _check_shape(values: Any, shape: Mapping[str, Any] = _SHAPE) -> None:
    """Raises ValueError where a job file does not hold what its readers count on; null stands for nothing."""
    if not isinstance(values, dict):
        raise ValueError(f"it holds {values!r:.40} in place of a mapping")
    for name, kind in shape.items():
        if values.get(name) is None:
            continue
        if isinstance(kind, dict):
            _check_shape(values[name], kind)
        elif not isinstance(values[name], kind):
            raise ValueError(f"{name} may not be {values[name]!r:.40}")
    if shape is _SHAPE and not all(isinstance(text, str) for text in (values.get("labels") or {}).values()):
        raise ValueError("a label is no text")


def folder_of(output: Store, uri: str) -> str:
    """How an output folder is named in what is written about it: by an absolute path, or a URI."""
    return shown(uri) if "://" in uri else output.root


def tracking_key(output: Store, folder: str) -> str:
    """What the runs of an output folder are found by: what its ``job.json`` says, wherever the folder was moved.

    A copy, whose original is still there, goes by its place, as does a folder whose file says nothing.
    """
    record = read_record(output, _say_nothing)
    key, home = record.get("tracking_key"), record.get("folder")
    if key and home and (home == folder or _key_at(home) != key):
        return str(key)
    return hashlib.sha256(folder.encode()).hexdigest()[:16]


def _key_at(folder: str) -> str | None:
    try:
        found: str | None = read_record(open_store(folder), _say_nothing).get("tracking_key")
    except (RestyleError, OSError):
        return None
    return found


def _say_nothing(message: str) -> None:
    """For a look at a job file on which its launch has been told already."""


def write_pairs_file(pairs: str, output: Store) -> None:
    """Write down where a folder's rows come from, when no job of ours made the covers."""
    content = {
        "catalogue": shown(pairs).rsplit("/", 1)[-1].rsplit(".", 1)[0],
        "parameters": {"manifest": shown(pairs)},
        "labels": {},
        "job": {"manifest": shown(pairs)},
    }
    output.write(JOB_FILE, json.dumps(content, indent=2).encode())


def write_job_file(
    job: "RestyleJob", output: Store, model: ModelFacts, pool: Pool, settings: list[Setting]
) -> None:
    """Write down what this launch runs, for whoever opens the folder later."""
    folder = folder_of(output, job.output)
    # Another folder may have been at the place of a new one before.
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
    # Sets of track ids are sorted.
    output.write(JOB_FILE, json.dumps(hidden(content), indent=2, default=sorted).encode())
