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
    """Seconds by part; nested time belongs to the innermost part alone.

    On a CPU it is the time of all threads, on a GPU wall time with a synchronization at every change of part.
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
        """Add the time since the last turn to the current part."""
        now = self._now()
        self.spent[self.open[-1]] += now - self.since
        self.since = now

    def watch(self, part: str) -> Callable[[Call], Call]:
        """A decorator that adds the time of a call to ``part``."""

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
    """Seconds by part of the block; complete at its end."""
    with ExitStack() as stack:
        clock = PartClock(device)
        for owner, method, part in patches:
            stack.enter_context(replaced(owner, method, clock.watch(part)))
        clock.since = clock._now()
        yield clock.spent
        clock.turn()


def our_patches(handler: AceStepHandler) -> list[Seam]:
    """Entry points of our parts."""
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
    """Entry points of the peer's parts."""
    return [
        (pipeline.vae, "encode", ENCODE),
        (pipeline.vae, "decode", DECODE),
        (pipeline.audio_tokenizer, "forward", CODES),
        (pipeline.audio_token_detokenizer, "forward", CODES),
        (pipeline.text_encoder, "forward", ENCODERS),
        (pipeline.condition_encoder, "forward", ENCODERS),
        (pipeline.transformer, "forward", DIT),
    ]
