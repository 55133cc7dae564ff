"""The gate before every timing."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.benchmark.outputs import EqualityError, check_codes, equal, no_worse


def wave(seed: int = 0) -> Tensor:
    return torch.randn(1, 200, generator=torch.Generator().manual_seed(seed))


def test_equal_outputs_pass_with_how_far_they_are() -> None:
    reference = wave() / wave().abs().max()
    off = reference.clone()
    off[0, 7] += 5e-5
    (found,) = equal("case", "default", {"latents": [reference, off]}, {"latents": [reference, reference]})
    assert found.off == pytest.approx(5e-5, rel=1e-2)


@pytest.mark.parametrize("broken", ["value", "nan", "shape", "second"])
def test_unequal_outputs_are_told(broken: str) -> None:
    reference, off = wave(), wave()
    off[0, 7] += 1e-2 if broken in ("value", "second") else math.nan if broken == "nan" else 0
    off = off[:, :-1] if broken == "shape" else off
    ours = [reference, off] if broken == "second" else [off]
    with pytest.raises(EqualityError, match=r"case: latents of ours and of the tuned peer differ by "):
        equal("case", "tuned", {"latents": ours}, {"latents": [reference] * len(ours)})


def test_a_larger_error_than_the_peers_is_told() -> None:
    exact, noise = wave(), wave(1)
    exact_only, near, far = (
        {"audio": [exact]},
        {"audio": [exact + 0.01 * noise]},
        {"audio": [exact + 0.02 * noise]},
    )
    (found,) = no_worse("case", "default", near, far, exact_only)
    assert found.ours_db is not None
    assert found.peer_db is not None
    assert found.ours_db - found.peer_db == pytest.approx(6.02, abs=0.1)
    with pytest.raises(EqualityError, match=r"audio of ours are 33\.\d dB above .* peer 39\.\d dB"):
        no_worse("case", "default", far, near, exact_only)


def test_codes_may_differ_by_accident_only() -> None:
    codes = torch.arange(300).reshape(1, -1)
    few, many = codes.clone(), codes.clone()
    few[0, :3] += 1
    many[0, :4] += 1
    assert check_codes("case", "default", [codes], [codes[..., None]]) == ""
    assert check_codes("case", "default", [few], [codes[..., None]]).startswith("3 of 300 codes")
    with pytest.raises(EqualityError, match="4 of 300 codes of ours and of the default peer differ"):
        check_codes("case", "default", [many], [codes[..., None]])
