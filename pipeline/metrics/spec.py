"""Measures requested by a job."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricsSpec:
    """Which measures to compute.

    enabled: measure every cover.
    melody: add the pitch accuracy of the leading voice (CREPE), which needs the extra ``restyle[melody]``.
    style: folder or hub id of a CLAP model that measures the fit to the caption; None disables it.
    """

    enabled: bool = True
    melody: bool = False
    style: str | None = None

    def check(self) -> None:
        """Check that the extras can run on this machine.

        Raises:
            RequestError: a package or the weights are missing.
        """
        from pipeline.metrics import pitch, style  # these import torch

        if self.enabled and self.melody:
            pitch.check_melody()
        if self.enabled and self.style:
            style.check_style(self.style)
