"""Specifications of the workflows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from acestep.constants import MAX_SOURCE_SECONDS
from acestep.redaction import redacted
from pipeline.catalogue.decode_depth import Decode
from pipeline.catalogue.grid import Point, Setting, make_settings
from pipeline.catalogue.presets import Preset
from pipeline.cluster.spec import ClusterSpec
from pipeline.evaluation.objective import Objective
from pipeline.evaluation.tuning import SearchSpace
from pipeline.metrics.spec import MetricsSpec
from pipeline.report.spec import FindingsSpec
from pipeline.storage.read_timeout import SOURCE_TIMEOUT_S
from pipeline.tracking.spec import TrackingSpec


@dataclass(frozen=True)
class RestyleJob:
    """One launch of a restyle job.

    manifest: table of the tracks: CSV, JSON lines or Parquet, at a path or a URI.
    output: folder of the covers and of all results, at a path or a URI.
    model: a published name such as turbo, "demo" (built in), a folder, or a hub id owner/name.
    variant: the model of a folder or a repository that holds several.
    adapter: a LoRA to merge into the model: a file, a folder, or a hub id owner/name.
    adapter_scale: strength of the adapter, 0 to 1.
    dtype: "float32", "bfloat16" or "float16"; None is bfloat16 on GPUs, float32 elsewhere.
    audio_format: file format of the covers: "wav", "flac", "mp3", "opus", "aac" or "wav32".
    max_source_seconds: longer sources are rejected.
    catalogue: name of the catalogue; None is the file name of the manifest.
    cover: every setting parameter by name, including the seed.
    grid: parameters to sweep, each a value or a list.
    points: settings to run in place of the grid, where a product of values is too much.
    duplicates: "refuse" or "run_once", for settings of the grid that give the same audio.
    stages: covers made one from the other, each a mapping of caption, lyrics and parameters that override those of
        ``cover``.
    presets: selected by the genres of manifest rows.
    by_hand: names in ``cover`` that a preset does not override, since they were set explicitly.
    preset, caption: the job's own preset, and a caption for rows without one.
    language_model: a 5 Hz language model that listens to each source and fills in the bpm, key, time signature
        and language that its row leaves open.
    compiled: compile the network and the autoencoder with torch.compile, which pays off on GPUs only.
    device: of the workers, such as "cpu" or "cuda"; None for the GPU if a worker has one.
    max_attempts: worker deaths per item before it is rejected, at least 2.
    source_timeout_s: how long reading a source may stall before it fails.
    retry_failed: run items again that failed in an earlier launch on the folder.
    repair: move damaged result files aside, and recover their covers.
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
    """A comparison of the settings in a folder.

    output: a folder of ``jobs.restyle`` or ``jobs.measure``.
    catalogue: name of the experiment; None for that of the folder's own job.
    """

    output: str
    catalogue: str | None = None
    findings: FindingsSpec = field(default_factory=FindingsSpec)
    tracking: TrackingSpec = field(default_factory=TrackingSpec)


@dataclass(frozen=True)
class MeasureJob:
    """A measuring job.

    output: the folder whose covers are measured; with ``pairs`` the folder of the new rows.
    pairs: a list of sources and outputs, see ``pipeline.planning.external_covers``; None for the folder's covers.
    manifest_columns: the user's own columns of the list, carried along.
    again: measure covers again that have measures, such as after adding an extra.
    repair: move damaged result files aside; covers of a list are measured again.
    max_source_seconds: longer recordings are not measured.
    source_timeout_s: how long reading a file may stall before it fails.
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
    """A selection of the best covers.

    output: a folder of ``jobs.restyle`` or ``jobs.measure``.
    export: the folder for the selected covers.
    """

    output: str
    export: str
    objective: Objective = field(default_factory=Objective)


@dataclass(frozen=True)
class ValidateSpec:
    """Options of the validation.

    decode: how far to decode each source: "start" (the first seconds), "full" or "none". "full" also compares
        every existing cover with the digest in its row.
    rates_from: an output folder for measured rates, if the job's own has no covers of the model.
    report: a .csv or .parquet file for all problems.
    """

    decode: Decode = "start"
    rates_from: str | None = None
    report: str | None = None


@dataclass(frozen=True)
class TuneSpec:
    """Options of the tuning.

    tracks: size of the sample, picked by hash.
    seeds: number for each track, consecutive from the job's seed.
    strengths, guidances: the full grid.
    budget: share of the grid's covers that may be made.
    """

    tracks: int = 8
    seeds: int = 3
    strengths: tuple[float, ...] = SearchSpace.strengths
    guidances: tuple[float, ...] = SearchSpace.guidances
    budget: float = 0.3
