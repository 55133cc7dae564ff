"""The configuration of the jobs, typed, so that Hydra refuses unknown keys and wrong kinds."""

from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from acestep.constants import MAX_SOURCE_SECONDS
from acestep.sampling.setting import PARAMETERS, SEED
from pipeline.cluster.spec import ClusterSpec
from pipeline.demo_model.plan import Plan
from pipeline.evaluation.objective import Objective
from pipeline.evaluation.tuning import SearchSpace
from pipeline.service.config import Limits, StoreSpec
from pipeline.storage.read_timeout import SOURCE_TIMEOUT_S


def _hydra_type(kind: Any) -> Any:
    """The type of a setting as OmegaConf writes it: it knows lists and no tuples."""
    return list[float] | None if kind == tuple[float, ...] | None else kind


# The setting every track gets, unless the grid or its manifest row says otherwise.
CoverConfig: Any = make_dataclass(
    "CoverConfig",
    [(p.name, _hydra_type(p.kind), field(default=p.default)) for p in (*PARAMETERS.values(), SEED)],
)

# Parameters to sweep, each a value or a list; their cross product makes the settings.
GridConfig: Any = make_dataclass(
    "GridConfig",
    [(name, Any, field(default=None)) for name in (*PARAMETERS, "seed")]
    + [("duplicates", str, field(default="refuse"))],
)


@dataclass
class PresetConfig:
    """See ``pipeline.catalogue.presets.Preset``; its values stand under ``cover`` of the same file."""

    name: str | None = None
    source_genre: str = ""
    target_genre: str = ""
    caption: str = ""
    ranges: dict[str, Any] = field(default_factory=dict)


@dataclass
class ClusterConfig:
    """See ``pipeline.cluster.pool.ClusterSpec``."""

    address: str = "auto"
    cpus: int | None = None
    gpus: int | None = None
    node_ip_address: str | None = ClusterSpec.node_ip_address
    workers: int | None = None
    max_workers: int | None = None
    threads_per_worker: int | None = None
    gpus_per_worker: float | None = None
    resources: Any = None  # a mapping; OmegaConf lets no typed one be set from a command line
    calls_per_worker: int = 3
    task_seconds: float = 30.0
    ship_code: bool = True
    install: bool = False
    start_timeout_s: float = 600.0
    stall_timeout_s: float | None = ClusterSpec.stall_timeout_s
    stop_timeout_s: float = ClusterSpec.stop_timeout_s


@dataclass
class TrackingConfig:
    """See ``pipeline.tracking.tracker.TrackingSpec``."""

    enabled: bool = True
    uri: str | None = None
    experiment: str | None = None


@dataclass
class MetricsConfig:
    """See ``pipeline.metrics.evaluator.MetricsSpec``."""

    enabled: bool = True
    melody: bool = False
    style: str | None = None


@dataclass
class ObjectiveConfig:
    """What makes one setting better than another; see ``pipeline.evaluation.objective.Objective``."""

    kept: list[str] = field(default_factory=lambda: list(Objective().kept))
    moved: str = Objective().moved
    half: float = Objective().half


@dataclass
class RestyleConfig:
    """See ``pipeline.workflows.restyle.RestyleJob``."""

    manifest: str = MISSING
    output: str = MISSING
    model: str = MISSING
    variant: str | None = None
    adapter: str | None = None
    adapter_scale: float = 1.0
    compiled: bool = False
    device: str | None = None
    dtype: str | None = None
    audio_format: str = "flac"
    max_source_seconds: float = MAX_SOURCE_SECONDS
    max_attempts: int = 3
    source_timeout_s: float = SOURCE_TIMEOUT_S
    retry_failed: bool = False
    repair: bool = False
    mix_models: bool = False
    dry_run: bool = False
    catalogue: str | None = None
    manifest_columns: Any = None  # "keep", or names of columns of one's own
    language_model: str | None = None
    preset: PresetConfig = field(default_factory=PresetConfig)
    cover: CoverConfig = field(default_factory=CoverConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    stages: list[dict[str, Any]] = field(default_factory=list)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    listen_tracks: int = 6


@dataclass
class LookConfig:
    """How ``jobs.validate`` looks; see ``pipeline.workflows.validate.ValidateSpec``.

    workers: how many will share the work.
    """

    decode: str = "start"
    rates_from: str | None = None
    workers: int | None = None
    report: str | None = None


@dataclass
class ValidateConfig(RestyleConfig):
    """A job to look at, as it stands for ``jobs.restyle``, and how to look."""

    validate: LookConfig = field(default_factory=LookConfig)


@dataclass
class TryConfig:
    """See ``pipeline.workflows.tune.TuneSpec``."""

    tracks: int = 8
    seeds: int = 3
    strengths: list[float] = field(default_factory=lambda: list(SearchSpace().strengths))
    guidances: list[float] = field(default_factory=lambda: list(SearchSpace().guidances))
    budget: float = 0.3


@dataclass
class TuneConfig(RestyleConfig):
    """A job to tune, as it stands for ``jobs.restyle``, and what to try."""

    tune: TryConfig = field(default_factory=TryConfig)


@dataclass
class CompareConfig:
    """See ``pipeline.workflows.compare.CompareJob``."""

    output: str = MISSING
    catalogue: str | None = None
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    listen_tracks: int = 6


@dataclass
class MeasureConfig:
    """See ``pipeline.workflows.measure.MeasureJob``."""

    output: str = MISSING
    pairs: str | None = None
    manifest_columns: Any = None  # of the list of pairs
    again: bool = False
    repair: bool = False
    max_source_seconds: float = MAX_SOURCE_SECONDS
    source_timeout_s: float = SOURCE_TIMEOUT_S
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass
class SelectConfig:
    """See ``jobs.select``."""

    output: str = MISSING
    export: str = MISSING
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)


@dataclass
class FetchConfig:
    """What to fetch; see ``jobs.fetch``."""

    model: str | None = None
    variant: str | None = None
    language_model: str | None = None
    adapter: str | None = None
    list: bool = False
    verify_only: bool = False


@dataclass
class AccessConfig:
    """See ``pipeline.service.config.Access``."""

    roots: list[str] = field(default_factory=list)
    url_hosts: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)


# See ``pipeline.service.config.Limits``.
LimitsConfig: Any = make_dataclass(
    "LimitsConfig", [(f.name, f.type, field(default=f.default)) for f in fields(Limits)]
)

# See ``pipeline.service.config.StoreSpec``.
StoreConfig: Any = make_dataclass(
    "StoreConfig", [(f.name, f.type, field(default=f.default)) for f in fields(StoreSpec)]
)


@dataclass
class ServeConfig:
    """See ``pipeline.service.config.ServiceSpec``."""

    output: str = "outputs/service"
    model: str = MISSING
    variant: str | None = None
    adapter: str | None = None
    adapter_scale: float = 1.0
    compiled: bool = False
    language_model: str | None = None
    device: str | None = None
    dtype: str | None = None
    host: str = "127.0.0.1"
    port: int = 8001
    page: bool = True
    max_attempts: int = 3
    repair: bool = False
    access: AccessConfig = field(default_factory=AccessConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)


@dataclass
class BenchmarkConfig:
    """See ``pipeline.benchmark.config.BenchmarkRequest``."""

    workload: str = MISSING
    size: str = "mini"
    device: str | None = None
    dtype: str | None = None
    variant: str | None = None
    duration_s: Any = None  # a number or a list
    steps: int | None = None
    tracks: int | None = None
    peer: str = "default"
    rounds: int = 3
    threads: int | None = None
    seed: int = 0
    compiled: bool = False
    breakdown: bool = True
    out: str | None = None


# The amounts of a training that a command line changes; None leaves a plan's own.
PlanConfig: Any = make_dataclass(
    "PlanConfig",
    [(f.name, float | None if f.type is float else int | None, field(default=None)) for f in fields(Plan)],
)


@dataclass
class TrainDemoConfig:
    """See ``jobs.train_demo``.

    steps: "full", or "small" to see that everything runs.
    device: of the network's training. threads: of torch; None is its own choice.
    tracking_uri: of an MLflow that shows the curves of the losses.
    seeds: of the covers that ``stage=evaluate`` makes.
    """

    output: str = "outputs/train_demo"
    stage: str = "all"
    steps: str = "full"
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    tracking_uri: str | None = None
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    plan: PlanConfig = field(default_factory=PlanConfig)


# The configuration of each job, by the job's name.
JOBS: dict[str, Any] = {
    "restyle": RestyleConfig,
    "validate": ValidateConfig,
    "tune": TuneConfig,
    "compare": CompareConfig,
    "measure": MeasureConfig,
    "select": SelectConfig,
    "fetch": FetchConfig,
    "serve": ServeConfig,
    "benchmark": BenchmarkConfig,
    "train_demo": TrainDemoConfig,
}


def register() -> None:
    """Make the schemas known to Hydra."""
    for job, config in JOBS.items():
        ConfigStore.instance().store(name=f"{job}_schema", node=config)
