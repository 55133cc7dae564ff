"""The configuration of the jobs, typed, so that Hydra refuses unknown keys and wrong kinds."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from acestep.constants import MAX_SOURCE_SECONDS


@dataclass
class CoverConfig:
    """The setting every track gets, unless the grid or its manifest row says otherwise."""

    task_type: str = "cover"
    audio_cover_strength: float = 0.5
    guidance_scale: float = 9.0
    inference_steps: int | None = None
    shift: float = 3.0
    infer_method: str = "ode"
    cfg_interval_start: float = 0.0
    cfg_interval_end: float = 0.95
    cfg_interval_on: str = "step"
    timesteps: list[float] | None = None
    seed: int = 42


@dataclass
class GridConfig:
    """Parameters to sweep, each a value or a list; their cross product makes the settings."""

    task_type: Any = None
    audio_cover_strength: Any = None
    guidance_scale: Any = None
    inference_steps: Any = None
    shift: Any = None
    infer_method: Any = None
    cfg_interval_start: Any = None
    cfg_interval_end: Any = None
    cfg_interval_on: Any = None
    timesteps: Any = None
    seed: Any = None


@dataclass
class ClusterConfig:
    """See ``pipeline.stages.ClusterSpec``."""

    address: str = "local"
    cpus: int | None = None
    gpus: int | None = None
    workers: int | None = None
    threads_per_worker: int | None = None
    gpus_per_worker: float | None = None
    calls_per_worker: int = 2
    tracks_per_task: int = 1


@dataclass
class TrackingConfig:
    """See ``pipeline.tracking.TrackingSpec``."""

    enabled: bool = True
    uri: str | None = None
    experiment: str | None = None


@dataclass
class RestyleConfig:
    """See ``pipeline.restyle.RestyleJob``."""

    manifest: str = MISSING
    output: str = MISSING
    model: str = "demo"
    variant: str | None = None
    dtype: str | None = None
    audio_format: str = "flac"
    max_source_seconds: float = MAX_SOURCE_SECONDS
    max_attempts: int = 3
    retry_failed: bool = False
    catalogue: str | None = None
    cover: CoverConfig = field(default_factory=CoverConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def register() -> None:
    """Make the schemas known to Hydra."""
    ConfigStore.instance().store(name="restyle_schema", node=RestyleConfig)
