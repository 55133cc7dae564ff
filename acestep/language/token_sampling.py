"""Token sampling with temperature, top-k and top-p."""

from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.errors import RequestError


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters.

    Attributes:
        temperature: 0 selects the most likely token.
        top_k: sample among the k most likely tokens; 0 is off.
        top_p: sample among the most likely tokens with this total probability; 1 is off.

    Raises:
        RequestError: a value is out of range.
    """

    temperature: float = 0.3
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        for name, fits, allowed in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
        ):
            if not fits:
                raise RequestError("out_of_range", field=name, value=getattr(self, name), allowed=allowed)

    def draw(self, logits: Tensor, generator: torch.Generator) -> int:
        """Sample an index of ``logits`` ``[n]`` (fp32, CPU)."""
        if self.temperature == 0:
            return int(logits.argmax())
        logits = (logits - logits.max()) / self.temperature  # the maximum is 0, so no temperature overflows
        if 0 < self.top_k < len(logits):
            logits = logits.where(logits >= logits.topk(self.top_k).values[-1], -torch.inf)
        probabilities = torch.softmax(logits, dim=0)
        if self.top_p < 1:
            ranked, order = probabilities.sort(descending=True, stable=True)
            probabilities[order[ranked.cumsum(0) - ranked >= self.top_p]] = 0
        return int(torch.multinomial(probabilities, 1, generator=generator))
