"""Measure one cover against its source: the default group and the requested extras."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from pipeline.metrics import pitch, style
from pipeline.metrics.compute import default_measures, split_reasons
from pipeline.metrics.features import Features, extract
from pipeline.metrics.sound import Found
from pipeline.metrics.spec import MetricsSpec

log = logging.getLogger(__name__)
Result = TypeVar("Result")
ALL = "all"  # key of the reason if nothing could be measured


@dataclass(frozen=True)
class Recording:
    """Features of a recording, including those of the extras (None if disabled)."""

    features: Features
    pitch: Tensor | None
    style: Tensor | None


@dataclass(frozen=True)
class ListenResult:
    """A recording's features, or the reason for their absence; ``seconds`` is the time spent."""

    recording: Recording | str
    seconds: float


class Evaluator:
    """Computes measures on one device.

    exclusive: lock held during computation on a GPU.
    """

    def __init__(
        self, spec: MetricsSpec, device: torch.device, exclusive: AbstractContextManager[object] | None = None
    ):
        """Load the models of the extras.

        Raises:
            RequestError: see ``MetricsSpec.check``.
        """
        spec.check()
        self.spec, self.device = spec, device
        self.exclusive = exclusive if exclusive is not None and device.type != "cpu" else nullcontext()
        self.clap = style.load_clap(spec.style, device) if spec.enabled and spec.style else None

    def listen(self, wave: Tensor) -> ListenResult | None:
        """Extract features of a recording ``[2, n]`` at 48 kHz; None if measuring is disabled."""
        if not self.spec.enabled:
            return None
        started = time.perf_counter()
        recording = self._try(lambda: self._extract(wave.to(self.device)))
        return ListenResult(recording, time.perf_counter() - started)

    def measure(self, source: ListenResult | None, cover: Tensor, caption: str, covers: int = 1) -> dict[str, Any]:
        """Result columns of a cover ``[2, n]``. A failure costs measures, never the cover.

        Args:
            covers: number of covers of the source; the time spent on the source is divided among them.
        """
        result = self.listen(cover)
        if source is None or result is None:
            return {}
        started = time.perf_counter()
        a, b = source.recording, result.recording
        if isinstance(a, str):
            measured: Found | str = a
        elif isinstance(b, str):
            measured = b
        else:
            measured = self._try(lambda: self._compare(a, b, caption))
        values, unmeasured = split_reasons({ALL: measured} if isinstance(measured, str) else measured)
        return {name: value for name, value in values.items() if value is not None} | {
            "unmeasured": [f"{name}: {reason}" for name, reason in unmeasured.items()],
            "measure_s": source.seconds / covers + result.seconds + time.perf_counter() - started,
        }

    def _extract(self, wave: Tensor) -> Recording:
        (features,) = extract([wave])
        return Recording(
            features,
            pitch.track(features) if self.spec.melody else None,
            style.embed(self.clap, wave) if self.clap else None,
        )

    def _compare(self, source: Recording, cover: Recording, caption: str) -> Found:
        """All measures; a text is the reason for a missing value."""
        measures = default_measures(source.features, cover.features)
        if source.pitch is not None and cover.pitch is not None:
            measures |= pitch.compare(source.features, cover.features, source.pitch, cover.pitch)
        if self.clap and source.style is not None and cover.style is not None:
            measures |= style.compare(self.clap, source.style, cover.style, caption)
        return measures

    def _try(self, work: Callable[[], Result]) -> Result | str:
        """The result of ``work``, or its error as text."""
        try:
            with self.exclusive, torch.inference_mode():
                return work()
        except torch.AcceleratorError:
            raise  # the device is unusable, and so is the worker
        except Exception as error:
            log.exception("measuring failed")
            return f"{type(error).__name__}: {error}"
