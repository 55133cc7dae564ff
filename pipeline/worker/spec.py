"""What a worker is told before it loads a model."""

from dataclasses import dataclass, field

from pipeline.metrics.spec import MetricsSpec
from pipeline.storage.read_timeout import SOURCE_TIMEOUT_S
from pipeline.storage.store import Store


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to know.

    launch: names this launch of the job.
    node: the driver's.
    fingerprint: of the checkpoint the driver planned with.
    language_model_fingerprint: fingerprint of the language model.
    stamp: of the files of both, see ``acestep.checkpoints.file_stamps``; "" has them read in any case.
    language_model: name of the one that fills in musical facts; None asks none.
    threads: CPU threads of torch in this worker; None leaves torch's own choice.
    max_attempts: how often an item may take the whole process down before it is rejected.
    repair: take covers whose files are there and whose rows are lost.
    source_timeout_s: how long reading a source may stand still before it is given up.
    """

    output: Store
    launch: str
    node: str
    model: str
    variant: str | None
    fingerprint: str
    language_model: str | None
    device: str | None
    dtype: str
    audio_format: str
    max_seconds: float
    threads: int | None
    max_attempts: int
    adapter: str | None = None
    adapter_scale: float = 1.0
    compiled: bool = False
    repair: bool = False
    language_model_fingerprint: str | None = None
    stamp: str = ""
    source_timeout_s: float = SOURCE_TIMEOUT_S
    metrics: MetricsSpec = field(default_factory=MetricsSpec)
