"""The memory model against what a process really takes."""

import json
import subprocess
import sys

import pytest
import torch

from acestep.config import AutoencoderConfig
from acestep.memory import free_bytes, longest_tile, tile_bytes

CONFIG = AutoencoderConfig(
    audio_channels=2,
    encoder_channels=64,
    decoder_channels=64,
    latent_channels=64,
    multiples=(1, 2, 4, 8, 16),
    ratios=(2, 4, 4, 6, 10),
    sample_rate=48_000,
)
# A process of its own: what others left behind in the allocator would hide what this takes.
MEASURE = """
import json, re, sys
import torch
from acestep.autoencoder import Autoencoder
from acestep.autoencoder_rows import lay_out
from tests.acestep.test_memory import CONFIG

def status(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

torch.set_num_threads(1)
autoencoder, frames = Autoencoder(CONFIG).eval(), 200
lay_out(autoencoder)
found = {}
with torch.inference_mode():
    decode = lambda frames: autoencoder.decoder(torch.randn(1, 64, frames))
    encode = lambda frames: autoencoder.encoder(torch.randn(1, 2, frames * 1920))
    for name, run in (("decode", decode), ("encode", encode)):
        run(2)
        open("/proc/self/clear_refs", "w").write("5")
        before = status("VmRSS")
        run(frames)
        found[name] = status("VmHWM") - before
print(json.dumps(found))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_what_a_tile_takes_is_what_was_foreseen() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    foreseen = tile_bytes(CONFIG, 200, 4, in_rows=True)
    for name, taken in json.loads(done.stdout).items():
        assert 0.7 * foreseen < taken < 1.05 * foreseen, (name, taken, foreseen)


def test_the_longest_tile_that_fits() -> None:
    gigabyte = 2**30
    assert longest_tile(CONFIG, 80 * gigabyte, 2, False, most=512, least=34) == 512
    tight = longest_tile(CONFIG, gigabyte // 4, 2, False, most=512, least=34)
    assert 34 < tight < 512
    assert tile_bytes(CONFIG, tight, 2, False) <= gigabyte // 4
    assert longest_tile(CONFIG, 0, 2, False, most=512, least=34) == 34
    assert free_bytes(torch.device("cpu")) is None
