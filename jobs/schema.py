"""Hydra configuration of each job, generated from the specs.

A key is a field of a spec, with the field's type and default and its meaning from the spec's docstring.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from acestep.parameters.declaration import Parameter
from acestep.sampling.setting import PARAMETERS, SEED
from pipeline.benchmark.config import BenchmarkRequest
from pipeline.demo_model.plan import Plan
from pipeline.report.spec import FindingsSpec
from pipeline.service.config import ServiceSpec
from pipeline.workflows.specs import CompareJob, MeasureJob, RestyleJob, SelectJob, TuneSpec, ValidateSpec

MEANING, CHOICES, RANGE = "meaning", "choices", "range"
Spec = TypeVar("Spec")
Key = tuple[str, Any, Any]  # name, type and dataclass field, as ``make_dataclass`` takes them


def meanings(spec: Any) -> dict[str, str]:
    """Field meanings from the docstring of a dataclass, in entries ``name, name: text``."""
    names = [f.name for f in fields(spec)]
    said: dict[str, str] = {}
    current: list[str] = []
    for line in (spec.__doc__ or "").split("\n"):
        text = line.strip()
        entry = re.match(r" {4}((?:\w+, )*\w+): (.*)", line)
        if entry and set(entry[1].split(", ")) <= set(names):
            current, text = entry[1].split(", "), entry[2]
        elif not line.startswith(" " * 8):
            current = []
        for name in current:
            said[name] = f"{said.get(name, '')} {text}".strip()
    return said


def keys(spec: Any, *omitted: str, **changed: Any) -> list[Key]:
    """The configuration keys of a spec.

    Args:
        omitted: fields that are no keys.
        changed: other defaults by field name; ``MISSING`` makes a key required.
    """
    types, said = get_type_hints(spec), meanings(RestyleJob) | meanings(spec)
    return [
        _key(f.name, types[f.name], changed.get(f.name, _default(f)), said.get(f.name, ""))
        for f in fields(spec)
        if f.name not in omitted
    ]


def _default(declared: Any) -> Any:
    if declared.default_factory is not NO_DEFAULT:
        return declared.default_factory()
    return MISSING if declared.default is NO_DEFAULT else declared.default


def _key(name: str, kind: Any, default: Any, meaning: str = "", **metadata: Any) -> Key:
    if is_dataclass(kind):
        group: Any = kind if kind.__module__ == "types" else config_of(kind)  # type: ignore[arg-type]
        return name, group, field(default_factory=group)
    kind, metadata = _hydra_type(kind), metadata | {MEANING: meaning}
    if not isinstance(default, tuple | list | Mapping):
        return name, kind, field(default=default, metadata=metadata)
    if kind is Any:  # left open
        return name, kind, field(default=None, metadata=metadata)
    mutable: Any = list if isinstance(default, tuple) else type(default)
    return name, kind, field(default_factory=lambda: mutable(default), metadata=metadata)


def _hydra_type(kind: Any) -> Any:
    """Translate a type for OmegaConf: tuples become lists, mappings Any (overrides cannot set typed ones)."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return str
    if origin is Sequence and get_origin(inner[0]) is Mapping:
        return list[dict[str, Any]]
    if origin in (Mapping, Sequence):
        return Any
    if origin is tuple:
        return list[inner[0]]  # type: ignore[valid-type]
    if type(None) in inner:
        return _hydra_type(inner[0]) | None
    return kind


@cache
def config_of(spec: Any) -> Any:
    """The configuration class of a spec that is a group of keys."""
    return _config(spec.__name__.removesuffix("Spec"), keys(spec))


def _config(name: str, declared: Sequence[Key]) -> Any:
    return make_dataclass(f"{name}Config", declared)


def build(spec: type[Spec], values: Mapping[str, Any], **given: Any) -> Spec:
    """Build a spec and its nested specs from the plain values of a configuration.

    Args:
        given: fields that are no keys, or that the configuration holds in another form.

    Raises:
        RestyleError: a value is invalid.
    """
    types = get_type_hints(spec)
    names = [f.name for f in fields(spec) if f.name in values and f.name not in given]  # type: ignore[arg-type]
    return spec(**{name: _built(types[name], values[name]) for name in names}, **given)


def _built(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        return build(kind, value)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) and get_origin(kind) is tuple else value


@dataclass(frozen=True)
class _Preset:
    """A starting point; its parameters are under ``cover`` of the same file.

    name: the preset's name.
    source_genre, target_genre: genres by which a row of the manifest chooses this preset.
    caption: the style, for rows that have no caption.
    ranges: for some parameters, the lowest and the highest value worth trying.
    """

    name: str | None = None
    source_genre: str = ""
    target_genre: str = ""
    caption: str = ""
    ranges: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Fetch:
    """What to fetch.

    model: a published name, or a hub id owner/name.
    variant: which model of a repository that holds several.
    language_model: a 5 Hz language model, by name or hub id.
    adapter: hub id of a LoRA adapter.
    list: list the published names, and how much of each is on this machine.
    verify_only: check what is in the cache, and download nothing.
    """

    model: str | None = None
    variant: str | None = None
    language_model: str | None = None
    adapter: str | None = None
    list: bool = False
    verify_only: bool = False


@dataclass(frozen=True)
class _TrainDemo:
    """What to train.

    output: folder of songs, latents and checkpoints.
    stage: one stage, or all, evaluate or publish.
    steps: "full", or "small" to see that everything runs.
    seed: seed of songs and noise.
    device: device of the network's training.
    threads: CPU threads of torch; None is torch's own choice.
    tracking_uri: MLflow server that gets the curves of the losses.
    seeds: seeds of the covers that ``stage=evaluate`` makes.
    """

    output: str = "outputs/train_demo"
    stage: str = "all"
    steps: str = "full"
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    tracking_uri: str | None = None
    seeds: tuple[int, ...] = (1, 2, 3)


PresetConfig = _config("Preset", keys(_Preset))


def _parameter(declared: Parameter) -> Key:
    known = {CHOICES: tuple(declared.choices), RANGE: declared.range}
    return _key(declared.name, declared.kind, declared.default, declared.meaning, **known)


_COVER = [_parameter(declared) for declared in (*PARAMETERS.values(), SEED)]
CoverConfig = _config("Cover", _COVER)
_SWEPT = "one value, or a list of values to sweep"
GridConfig = _config(
    "Grid",
    [
        *(_key(name, Any, None, _SWEPT) for name, *_ in _COVER),
        _key("duplicates", str, "refuse", "settings of the grid that give equal audio: refuse, or run_once"),
    ],
)
_FINDINGS = keys(FindingsSpec, "pictures")
_RESTYLE = [
    *keys(
        RestyleJob, "cover", "grid", "points", "duplicates", "presets", "by_hand", "preset", "caption", "findings",
        model=MISSING,
    ),
    _key("dry_run", bool, False, "check everything, make nothing, and say what is left to do"),
    _key("preset", PresetConfig, None),
    _key("cover", CoverConfig, None),
    _key("grid", GridConfig, None),
    *_FINDINGS,
]  # fmt: skip
_WORKERS = _key("workers", int | None, None, "workers to divide the time by; null uses cluster.workers")
_LOOK = _config("Look", [*keys(ValidateSpec), _WORKERS])
_PLAN = _config(
    "Plan",
    [
        _key(name, kind | None, None, f"in place of the {getattr(Plan, name):g} of steps=full")
        for name, kind in get_type_hints(Plan).items()
    ],
)

# The configuration of each job, by the job's name.
JOBS: dict[str, Any] = {
    "restyle": _config("Restyle", _RESTYLE),
    "validate": _config("Validate", [*_RESTYLE, _key("validate", _LOOK, None)]),
    "tune": _config("Tune", [*_RESTYLE, _key("tune", TuneSpec, None)]),
    "compare": _config("Compare", [*keys(CompareJob, "findings"), *_FINDINGS]),
    "measure": _config("Measure", keys(MeasureJob)),
    "select": _config("Select", keys(SelectJob)),
    "fetch": _config("Fetch", keys(_Fetch)),
    "serve": _config("Serve", keys(ServiceSpec, "presets", output="outputs/service", model=MISSING)),
    "benchmark": _config(
        "Benchmark",
        [
            *keys(BenchmarkRequest, "duration_s"),
            _key("duration_s", Any, None, meanings(BenchmarkRequest)["duration_s"]),
        ],
    ),
    "train_demo": _config("TrainDemo", [*keys(_TrainDemo), _key("plan", _PLAN, None)]),
}


def register() -> None:
    """Register the schemas with Hydra."""
    for job, config in JOBS.items():
        ConfigStore.instance().store(name=f"{job}_schema", node=config)
