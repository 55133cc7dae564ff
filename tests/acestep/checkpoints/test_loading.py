"""Weights lie in the page cache once, however many workers of a node read them."""

import sys

import pytest
import torch
from torch import Tensor

from acestep.handler import AceStepHandler
from tests import miniature


def mapped_from_a_file(tensor: Tensor) -> bool:
    """Whether the memory of a tensor is a file's own pages."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, *_, name = line.split()
            start, stop = (int(end, 16) for end in span.split("-"))
            if start <= tensor.data_ptr() < stop:
                return name.endswith(".safetensors")
    return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mappings are read from /proc")
def test_weights_in_the_dtype_of_their_file_are_not_copied() -> None:
    handler = AceStepHandler.from_checkpoint(miniature.BASE, device="cpu", dtype="bfloat16")
    large = [p for p in handler.model.parameters() if p.numel() > 4096 and p.dtype == torch.bfloat16]
    assert large
    assert all(mapped_from_a_file(parameter) for parameter in large)
    assert {"network", "autoencoder", "text encoder"} <= handler.load_s.keys()
