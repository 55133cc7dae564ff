"""Where a job's runs are tracked."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrackingSpec:
    """Where runs go.

    enabled: track in MLflow.
    uri: any MLflow tracking URI; None is ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the output folder.
    experiment: name of the experiment; None is the catalogue's.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str | None = None
