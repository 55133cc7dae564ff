"""Configuration of a worker."""

from dataclasses import dataclass, field

from pipeline.metrics.spec import MetricsSpec
from pipeline.planning.items import ModelFacts
from pipeline.storage.read_timeout import SOURCE_TIMEOUT_S
from pipeline.storage.store import Store


@dataclass(frozen=True)
class WorkerSpec:
    """Configuration of a worker.

    launch: id of this launch of the job.
    node: the driver's node.
    model: name, fingerprints and dtype that the driver planned with; with an empty stamp the worker always reads
        the files to compare them.
    language_model: name of the language model that fills in musical facts; None for none.
    threads: CPU threads of torch in this worker; None for torch's default.
    max_attempts: worker deaths per item before it is rejected.
    repair: use existing audio files of covers whose rows are lost.
    source_timeout_s: how long reading a source may stall before it fails.
    """

    output: Store
    launch: str
    node: str
    model: ModelFacts
    variant: str | None
    language_model: str | None
    device: str | None
    audio_format: str
    max_seconds: float
    threads: int | None
    max_attempts: int
    adapter: str | None = None
    adapter_scale: float = 1.0
    repair: bool = False
    source_timeout_s: float = SOURCE_TIMEOUT_S
    metrics: MetricsSpec = field(default_factory=MetricsSpec)
