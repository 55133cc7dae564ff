"""What a job measures of each cover: the default group, and the extras that were asked for."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from pipeline.metrics import pitch, style
from pipeline.metrics.compute import measure
from pipeline.metrics.features import Features, extract
from pipeline.metrics.sound import Found
from pipeline.metrics.spec import MetricsSpec

log = logging.getLogger(__name__)
Result = TypeVar("Result")
ALL = "all"  # stands for every measure where nothing could be measured


@dataclass(frozen=True)
class Recording:
    """A recording as it is compared.

    pitch, style: what the extras make of it; None where they are off.
    """

    features: Features
    pitch: Tensor | None
    style: Tensor | None


@dataclass(frozen=True)
class ListenResult:
    """What came of listening to a recording: what is heard or, as text, why nothing is; seconds of work."""

    heard: Recording | str
    seconds: float


class Evaluator:
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
        self.clap = style.load_clap(spec.style, device) if spec.enabled and spec.style else None

    def listen(self, wave: Tensor) -> ListenResult | None:
        """A recording ``[2, n]`` at 48 kHz, to compare others with; None where nothing is measured."""
        if not self.spec.enabled:
            return None
        started = time.perf_counter()
        heard = self._tried(lambda: self._heard(wave.to(self.device)))
        return ListenResult(heard, time.perf_counter() - started)

    def measure(self, source: ListenResult | None, cover: Tensor, caption: str, covers: int = 1) -> dict[str, Any]:
        """Result columns of a cover ``[2, n]``. What goes wrong costs a measure and never the cover.

        Args:
            covers: how many the source has; each is charged with its share of listening to it.
        """
        listened = self.listen(cover)
        if source is None or listened is None:
            return {}
        started = time.perf_counter()
        mine, other = source.heard, listened.heard
        if isinstance(mine, str):
            found: Found | str = mine
        elif isinstance(other, str):
            found = other
        else:
            found = self._tried(lambda: self._compared(mine, other, caption))
        found = {ALL: found} if isinstance(found, str) else found
        reasons = {name: reason for name, reason in found.items() if isinstance(reason, str)}
        return {name: value for name, value in found.items() if name not in reasons} | {
            "unmeasured": [f"{name}: {reason}" for name, reason in reasons.items()],
            "measure_s": source.seconds / covers + listened.seconds + time.perf_counter() - started,
        }

    def _heard(self, wave: Tensor) -> Recording:
        (features,) = extract([wave])
        return Recording(
            features,
            pitch.track(features) if self.spec.melody else None,
            style.embed(self.clap, wave) if self.clap else None,
        )

    def _compared(self, source: Recording, cover: Recording, caption: str) -> Found:
        """All measures; a text is the reason why one has no value."""
        (measured,) = measure(source.features, [cover.features])
        found: Found = {name: value for name, value in measured.values.items() if value is not None}
        found |= measured.unmeasured
        if source.pitch is not None and cover.pitch is not None:
            found |= pitch.compare(source.features, cover.features, source.pitch, cover.pitch)
        if self.clap and source.style is not None and cover.style is not None:
            found |= style.compare(self.clap, source.style, cover.style, caption)
        return found

    def _tried(self, work: Callable[[], Result]) -> Result | str:
        """What ``work`` gives, or what went wrong."""
        try:
            with self.exclusive, torch.inference_mode():
                return work()
        except torch.AcceleratorError:
            raise  # the device is broken, and the worker with it
        except Exception as error:
            log.exception("measuring failed")
            return f"{type(error).__name__}: {error}"
