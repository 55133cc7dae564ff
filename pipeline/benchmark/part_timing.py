"""Time of one run by part of the model, on either side."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch

from acestep.handler import AceStepHandler
from pipeline.benchmark.patching import Call, replaced
from pipeline.benchmark.timing import synchronize

ENCODE, CODES, ENCODERS, DIT, DECODE, REST = (
    "VAE encode",
    "codes and hints",
    "encoders",
    "DiT",
    "VAE decode",
    "rest",
)
PARTS = (ENCODE, CODES, ENCODERS, DIT, DECODE, REST)

Seam = tuple[Any, str, str]


class PartClock:
    """Seconds by part; time within a part belongs to the innermost one alone.

    On a CPU the time of all threads together, on a GPU time on the wall, and it is waited for at every change of
    part.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.spent = dict.fromkeys(PARTS, 0.0)
        self.open: list[str] = [REST]
        self.since = self._now()

    def _now(self) -> float:
        synchronize(self.device)
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()

    def turn(self) -> None:
        """Book the time since the last turn on the part that is open."""
        now = self._now()
        self.spent[self.open[-1]] += now - self.since
        self.since = now

    def watch(self, part: str) -> Callable[[Call], Call]:
        """What makes a call book its time on ``part``."""

        def around(call: Call) -> Call:
            @wraps(call)
            def timed(*args: Any, **named: Any) -> Any:
                self.turn()
                self.open.append(part)
                try:
                    return call(*args, **named)
                finally:
                    self.turn()
                    self.open.pop()

            return timed

        return around


@contextmanager
def by_part(patches: list[Seam], device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds by part of what runs within the block; complete when it ends."""
    with ExitStack() as stack:
        clock = PartClock(device)
        for owner, method, part in patches:
            stack.enter_context(replaced(owner, method, clock.watch(part)))
        clock.since = clock._now()
        yield clock.spent
        clock.turn()


def our_patches(handler: AceStepHandler) -> list[Seam]:
    """Where our parts begin."""
    model, autoencoder = handler.model, handler.autoencoder
    return [
        (autoencoder, "encode", ENCODE),
        (autoencoder, "decode", DECODE),
        (model.tokenizer, "forward", CODES),
        (model.detokenizer, "forward", CODES),
        (handler.text_encoder, "states", ENCODERS),
        (model.encoder.text_projector, "forward", ENCODERS),
        (model.encoder.lyric_encoder, "forward", ENCODERS),
        (model.encoder.timbre_encoder, "forward", ENCODERS),
        *((model.decoder, name, DIT) for name in ("forward", "guided", "modulation", "cross_attention")),
    ]


def peer_patches(pipeline: Any) -> list[Seam]:
    """Where the peer's parts begin."""
    return [
        (pipeline.vae, "encode", ENCODE),
        (pipeline.vae, "decode", DECODE),
        (pipeline.audio_tokenizer, "forward", CODES),
        (pipeline.audio_token_detokenizer, "forward", CODES),
        (pipeline.text_encoder, "forward", ENCODERS),
        (pipeline.condition_encoder, "forward", ENCODERS),
        (pipeline.transformer, "forward", DIT),
    ]
