"""What a job measures of each cover: the default group, and the extras that were asked for."""

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.metrics.features import Features, extract
from pipeline.metrics.measure import measure

log = logging.getLogger(__name__)


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
        del self


@dataclass(frozen=True)
class Heard:
    """A recording as it is compared; ``seconds`` is what that took, ``trouble`` why it cannot be."""

    features: Features | None
    seconds: float
    trouble: str = ""


class Ruler:
    """Measures covers on one device.

    exclusive: held while it computes there; on a CPU nobody needs to wait.
    """

    def __init__(
        self, spec: MetricsSpec, device: torch.device, exclusive: AbstractContextManager[object] | None = None
    ):
        """Load what the extras need.

        Raises:
            RequestError: see ``MetricsSpec.check``.
        """
        spec.check()
        self.spec, self.device = spec, device
        self.exclusive = exclusive if exclusive is not None and device.type != "cpu" else nullcontext()

    def listen(self, wave: Tensor) -> Heard | None:
        """A recording ``[2, n]`` at 48 kHz, to compare others with; None where nothing is measured."""
        if not self.spec.enabled:
            return None
        started = time.perf_counter()
        try:
            with self.exclusive, torch.inference_mode():
                (features,) = extract([wave.to(self.device)])
        except torch.AcceleratorError:
            raise  # the device is broken, and the worker with it
        except Exception as error:
            log.exception("a recording cannot be measured")
            return Heard(None, time.perf_counter() - started, f"{type(error).__name__}: {error}")
        return Heard(features, time.perf_counter() - started)

    def measure(self, source: Heard | None, cover: Tensor, caption: str, covers: int = 1) -> dict[str, Any]:
        """Result columns of a cover ``[2, n]``. What goes wrong costs a measure and never the cover.

        Args:
            covers: how many the source has; each is charged with its share of listening to it.
        """
        heard = self.listen(cover)
        if source is None or heard is None:
            return {}
        started = time.perf_counter()
        if source.features is None or heard.features is None:
            values, reasons = {}, {"all": source.trouble or heard.trouble}
        else:
            with self.exclusive:
                (found,) = measure(source.features, [heard.features])
            values, reasons = found.values, found.unmeasured
        return values | {
            "unmeasured": [f"{name}: {reason}" for name, reason in reasons.items()],
            "measure_s": source.seconds / covers + heard.seconds + time.perf_counter() - started,
        }
