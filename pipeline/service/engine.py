"""The engine: the catalogue's worker, one loaded model behind a Serve replica."""

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
from pipeline.service.ports import listen_on_loopback
from pipeline.worker.restyle_worker import RestyleWorker
from pipeline.worker.spec import WorkerSpec

CALLS = 2  # one request on the device, one that is read or written meanwhile


class RequestWorker(RestyleWorker):
    """A worker whose tracks carry a request: ``params`` and ``config`` as ``generate_music`` takes them.

    What it does beyond a catalogue (loudness, fades, latents moved, the language model's manner) is done by the
    same functions that ``generate_music`` calls.
    """

    def __init__(self, spec: WorkerSpec):
        super().__init__(spec)
        self.call = threading.local()

    def unwanted(self) -> bool:
        return super().unwanted() or self.call.unwanted.is_set()

    def asked(self, track: dict[str, Any]) -> GenerationParams | None:
        params = params_of(track)
        return params if params.thinking else None

    def chain(self, track: dict[str, Any], conditions: TrackConditions, keys: Sequence[Key]) -> Chain:
        params = params_of(track)
        return Chain(conditions, keys, lambda x: x * params.latent_rescale + params.latent_shift)

    def cover(self, item_id: str, chain: Chain, stages: tuple[Stage, ...], seed: int) -> Cover:
        told, unwanted = self.call.told, self.call.unwanted

        def on_step(step: int, steps: int) -> None:
            if unwanted.is_set():
                raise GenerationError("nobody waits for it any more", "cancelled")
            told({"item_id": item_id, "step": step, "steps": steps})

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
    """A Serve deployment: tracks with items in, steps and result rows out."""

    def __init__(self, spec: WorkerSpec):
        listen_on_loopback()
        self.worker = RequestWorker(spec)
        self.threads = ThreadPoolExecutor(CALLS, "engine")

    async def make(self, track: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """All items of a track: ``{"item_id", "step", "steps"}`` as they advance, their rows as they are done.

        Closing it, or cancelling the call, ends the work at its next step.
        """
        loop, unwanted = asyncio.get_running_loop(), threading.Event()
        news: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def tell(what: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(news.put_nowait, what)

        def work() -> None:
            self.worker.call.told, self.worker.call.unwanted = tell, unwanted
            try:
                for row in self.worker.restyle(track):
                    tell({"row": row})
            finally:
                tell(None)

        working = loop.run_in_executor(self.threads, work)
        try:
            while (told := await news.get()) is not None:
                yield told
            await working
        finally:
            unwanted.set()


def params_of(track: dict[str, Any]) -> GenerationParams:
    """The request that a track carries."""
    return GenerationParams(**track["params"])
