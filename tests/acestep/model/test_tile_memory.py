"""The memory model against what the layers hold."""

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from acestep.model.autoencoder import Autoencoder
from acestep.model.config import AutoencoderConfig
from acestep.model.tile_memory import LIVE, longest_tile, tile_bytes, total_bytes

CONFIG = AutoencoderConfig(
    audio_channels=2,
    encoder_channels=128,
    decoder_channels=128,
    latent_channels=64,
    multiples=(1, 2, 4, 8, 16),
    ratios=(2, 4, 4, 6, 10),
    sample_rate=48_000,
)


class Held(TorchDispatchMode):
    """Counts the bytes of all storages that operations made and that are still held; ``max_frames`` at once."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.now = self.max_frames = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor.untyped_storage())
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.max_frames = max(self.max_frames, self.now)
        weakref.finalize(storage, self._let_go, key, size)

    def _let_go(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_what_a_tile_takes_is_what_was_foreseen(part: str) -> None:
    frames = 64
    with torch.device("meta"), torch.inference_mode():
        model = Autoencoder(CONFIG).bfloat16()
        shape = (1, 2, frames * 1920) if part == "encoder" else (1, 64, frames)
        x = torch.empty(shape, dtype=torch.bfloat16)
        with Held() as held:
            getattr(model, part).in_whole(x)
    foreseen = tile_bytes(CONFIG, 1, frames, 2)
    assert 0.85 * foreseen < held.max_frames <= foreseen, held.max_frames / foreseen * LIVE


def test_the_longest_tile_that_fits() -> None:
    gigabyte = 2**30
    assert longest_tile(CONFIG, 1, 80 * gigabyte, 2, max_frames=512, min_frames=34) == 512
    tight = longest_tile(CONFIG, 1, 2 * gigabyte, 2, max_frames=512, min_frames=34)
    assert 34 < tight < 512
    assert tile_bytes(CONFIG, 1, tight, 2) <= gigabyte // 2
    assert longest_tile(CONFIG, 4, 2 * gigabyte, 2, max_frames=512, min_frames=34) == tight // 4
    assert longest_tile(CONFIG, 1, 0, 2, max_frames=512, min_frames=34) == 34
    assert total_bytes(torch.device("cpu")) is None
