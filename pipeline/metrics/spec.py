"""What a job measures of each cover."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricsSpec:
    """What to measure of every cover.

    melody: also the pitch of the leading voice by CREPE, which needs the extra ``restyle[melody]``.
    style: also how well the sound fits the caption: the folder or hub id of a CLAP model; None does not.
    """

    enabled: bool = True
    melody: bool = False
    style: str | None = None

    def check(self) -> None:
        """Look whether the extras can run here.

        Raises:
            RequestError: a package or the weights are missing.
        """
        from pipeline.metrics import pitch, style  # these import torch

        if self.enabled and self.melody:
            pitch.check_melody()
        if self.enabled and self.style:
            style.check_style(self.style)
