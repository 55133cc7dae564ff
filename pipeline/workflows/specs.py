"""Specifications of the workflows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from acestep.constants import MAX_SOURCE_SECONDS
from acestep.redaction import redacted
from pipeline.catalogue.grid import Point, Setting, make_settings
from pipeline.catalogue.presets import Preset
from pipeline.catalogue.source_check import Decode
from pipeline.cluster.spec import ClusterSpec
from pipeline.evaluation.objective import Objective
from pipeline.evaluation.tuning import SearchSpace
from pipeline.metrics.spec import MetricsSpec
from pipeline.report.spec import FindingsSpec
from pipeline.storage.read_timeout import SOURCE_TIMEOUT_S
from pipeline.tracking.spec import TrackingSpec


@dataclass(frozen=True)
class RestyleJob:
    """One launch: what to restyle, with what, into which folder.

    cover: every setting parameter by name, the seed included; grid: those to sweep, each a value or a list.
    points: what to run in place of the grid, where a product says too much.
    duplicates: what to do where the grid holds settings that give the same audio: "refuse" or "run_once".
    stages: covers to make one after the other, each a mapping of a caption, lyrics and parameters laid over cover.
    presets: what manifest rows may name by their genres; by_hand: the names in ``cover`` that such a preset leaves
        alone, since they were asked for.
    preset, caption: the job's own preset, and a caption for rows that have none.
    language_model: a 5 Hz language model that listens to each source and fills in the bpm, key, time signature
        and language that its row leaves open.
    compiled: have torch.compile fuse the network and the autoencoder, which pays on GPUs only.
    device: of the workers, such as "cpu" or "cuda"; None is the GPU where a worker has one.
    max_attempts: how often an item may take a worker process down before it is rejected, at least 2.
    source_timeout_s: how long reading a source may stand still before it is given up.
    retry_failed: run again what an earlier launch on the folder could not.
    repair: move damaged files of results out of the way, and find their covers again.
    mix_models: allow covers of different models in one folder.
    manifest_columns: the user's own columns to carry along, see ``pipeline.catalogue.own_columns.parse_declared``.
    """

    manifest: str
    output: str
    cover: Mapping[str, Any]
    grid: Mapping[str, Any] = field(default_factory=dict)
    points: Sequence[Point] = ()
    duplicates: str = "refuse"
    stages: Sequence[Mapping[str, Any]] = ()
    presets: Sequence[Preset] = ()
    by_hand: Sequence[str] = ()
    preset: str | None = None
    caption: str = ""
    language_model: str | None = None
    model: str = "demo"
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
    catalogue: str | None = None
    manifest_columns: Sequence[str] = ()
    cluster: ClusterSpec = field(default_factory=ClusterSpec)
    tracking: TrackingSpec = field(default_factory=TrackingSpec)
    metrics: MetricsSpec = field(default_factory=MetricsSpec)
    findings: FindingsSpec = field(default_factory=FindingsSpec)

    @property
    def name(self) -> str:
        """The catalogue's name: as given, else the manifest's file name."""
        return self.catalogue or redacted(self.manifest).rsplit("/", 1)[-1].rsplit(".", 1)[0]

    def settings(self) -> list[Setting]:
        """What every track gets; see ``make_settings``."""
        return make_settings(self.cover, self.grid, self.stages, self.points)


@dataclass(frozen=True)
class CompareJob:
    """What to compare.

    output: a folder of ``jobs.restyle`` or ``jobs.measure``.
    catalogue: names the experiment; None is what the folder's own job was called.
    """

    output: str
    catalogue: str | None = None
    findings: FindingsSpec = field(default_factory=FindingsSpec)
    tracking: TrackingSpec = field(default_factory=TrackingSpec)


@dataclass(frozen=True)
class MeasureJob:
    """What to measure.

    output: the folder whose covers are measured; with ``pairs`` the folder that their rows go to.
    pairs: a list of sources and outputs, see ``pipeline.planning.external_covers``; None measures the folder's own
        covers.
    manifest_columns: columns of the list that are the user's own, carried along.
    again: measure also what was measured before, such as with an extra more.
    repair: move damaged files of results out of the way; covers of a list are measured again.
    source_timeout_s: how long reading a file may stand still before it is given up.
    """

    output: str
    pairs: str | None = None
    manifest_columns: Sequence[str] = ()
    again: bool = False
    repair: bool = False
    max_source_seconds: float = MAX_SOURCE_SECONDS
    source_timeout_s: float = SOURCE_TIMEOUT_S
    metrics: MetricsSpec = field(default_factory=MetricsSpec)
    cluster: ClusterSpec = field(default_factory=ClusterSpec)


@dataclass(frozen=True)
class SelectJob:
    """What to choose from, and where to put it.

    output: a folder of ``jobs.restyle`` or ``jobs.measure``; export: the folder for the winners.
    """

    output: str
    export: str
    objective: Objective = field(default_factory=Objective)


@dataclass(frozen=True)
class ValidateSpec:
    """How to look.

    decode: how far to decode each source: "start" the first seconds, "full" all of it, "none" nothing. "full" also
        compares every cover that is there with the digest in its row.
    rates_from: an output folder whose covers tell how long one takes, where the job's own has none of the model.
    report: a .csv or .parquet file to write every problem to.
    """

    decode: Decode = "start"
    rates_from: str | None = None
    report: str | None = None


@dataclass(frozen=True)
class TuneSpec:
    """What to try.

    tracks: how many of the catalogue, drawn by their names; seeds: how many for each, counted up from the job's.
    strengths, guidances: the full grid that is searched.
    budget: share of that grid's covers that may be made.
    """

    tracks: int = 8
    seeds: int = 3
    strengths: tuple[float, ...] = SearchSpace.strengths
    guidances: tuple[float, ...] = SearchSpace.guidances
    budget: float = 0.3
