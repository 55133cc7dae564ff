"""The engine: the catalogue job's worker as a Serve replica."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor

from acestep.audio.files import EXTENSIONS, encode_audio
from acestep.constants import SAMPLE_RATE
from acestep.errors import GenerationError
from acestep.generation.chain import Chain, Cover, Key
from acestep.generation.conditions import TrackConditions
from acestep.generation.params import GenerationConfig, GenerationParams
from acestep.generation.rendering import finish_waveform
from acestep.generation.request import parse_bitrate
from acestep.generation.stages import Stage
from pipeline.service.loopback import listen_on_loopback
from pipeline.service.problem_details import SHORT_OF_SPACE
from pipeline.storage.transient_errors import is_disk_full
from pipeline.worker.restyle_worker import RestyleWorker
from pipeline.worker.spec import WorkerSpec

CALLS = 2  # one on the device, one that is read or written meanwhile


class RequestWorker(RestyleWorker):
    """A worker whose tracks carry a request, with ``params`` and ``config`` of ``generate_music``.

    Features beyond a catalogue job (loudness, fades, latent shift, language model settings) use the functions of
    ``generate_music``.
    """

    def __init__(self, spec: WorkerSpec):
        super().__init__(spec)
        self.call = threading.local()

    def unwanted(self) -> bool:
        return super().unwanted() or self.call.unwanted.is_set()

    def language_model_params(self, track: dict[str, Any]) -> GenerationParams | None:
        params = params_of(track)
        return params if params.thinking else None

    def failure(self, error: Exception) -> dict[str, Any]:
        found = super().failure(error)
        return found | {"error_kind": SHORT_OF_SPACE} if is_disk_full(error) else found

    def chain(self, track: dict[str, Any], conditions: TrackConditions, keys: Sequence[Key]) -> Chain:
        params = params_of(track)
        return Chain(conditions, keys, lambda x: x * params.latent_rescale + params.latent_shift)

    def cover(self, item_id: str, chain: Chain, stages: tuple[Stage, ...], seed: int) -> Cover:
        report, unwanted = self.call.report, self.call.unwanted

        def on_step(step: int, steps: int) -> None:
            if unwanted.is_set():
                raise GenerationError("cancelled", "cancelled by the client")
            report({"item_id": item_id, "step": step, "steps": steps})

        on_step(0, 0)
        return chain.run(stages, seed, on_step)

    def finished(self, track: dict[str, Any], wave: Tensor) -> Tensor:
        return finish_waveform(wave, params_of(track))

    def encoded(self, track: dict[str, Any], wave: Tensor) -> tuple[bytes, str]:
        config = GenerationConfig(**track["config"])
        audio_format = config.audio_format
        rate = config.mp3_sample_rate if audio_format == "mp3" else SAMPLE_RATE
        content = encode_audio(wave, audio_format, parse_bitrate(config.mp3_bitrate), rate)
        return content, EXTENSIONS.get(audio_format, audio_format)


class Engine:
    """A Serve deployment: takes tracks with items, streams steps and result rows."""

    def __init__(self, spec: WorkerSpec):
        listen_on_loopback()
        self.worker = RequestWorker(spec)
        self.threads = ThreadPoolExecutor(CALLS, "engine")

    async def make(self, track: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Make all items of a track; yields ``{"item_id", "step", "steps"}`` and ``{"row"}``.

        Closing the generator, or cancelling the call, stops the work at its next step.
        """
        loop, unwanted = asyncio.get_running_loop(), threading.Event()
        events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def report(event: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def work() -> None:
            self.worker.call.report, self.worker.call.unwanted = report, unwanted
            try:
                for row in self.worker.restyle(track):
                    report({"row": row})
            finally:
                report(None)

        working = loop.run_in_executor(self.threads, work)
        try:
            while (event := await events.get()) is not None:
                yield event
            await working
        finally:
            unwanted.set()


def params_of(track: dict[str, Any]) -> GenerationParams:
    """The parameters of a track's request."""
    return GenerationParams(**track["params"])
