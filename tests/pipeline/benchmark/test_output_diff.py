"""The gate before every timing."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.benchmark.output_diff import EqualityError, check_codes, different_codes, equal, no_worse


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
    told = {"nan": "ours are not finite", "shape": r"ours have the shape \[1, 199\], those of the tuned peer"}
    with pytest.raises(EqualityError, match=told.get(broken, "ours and of the tuned peer differ by 2.93e-03")):
        equal("case", "tuned", {"latents": ours}, {"latents": [reference] * len(ours)})


@pytest.mark.parametrize(("ours", "theirs"), [(2, 3), (3, 2), (0, 2), (2, 0), (0, 0)])
def test_other_numbers_of_outputs_are_told(ours: int, theirs: int) -> None:
    told = f"case: ours made {ours} latents, the default peer {theirs}"
    for compare in (equal, lambda *given: no_worse(*given, {"latents": [wave()] * ours})):
        with pytest.raises(EqualityError, match=told):
            compare("case", "default", {"latents": [wave()] * ours}, {"latents": [wave()] * theirs})
    with pytest.raises(EqualityError, match="ours made 1 audio, the default peer 0"):
        equal("case", "default", {"latents": [wave()], "audio": [wave()]}, {"latents": [wave()]})
    with pytest.raises(EqualityError, match="made nothing to compare with"):
        equal("case", "default", {}, {})


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


def test_latents_have_a_higher_floor_than_a_waveform() -> None:
    near, exact = ({"latents": [wave() + share * wave(1)]} for share in (0.2, 0.0))
    with pytest.raises(EqualityError, match=r"latents of ours are 1[34].. dB .* must be finite, 20 dB"):
        no_worse("case", "default", near, near, exact)


@pytest.mark.parametrize(
    ("ours", "theirs", "reference", "message"),
    [
        (wave(1), wave(2), wave(), "must be finite, 10 dB"),
        (wave() + 0.4 * wave(1), wave() + 0.4 * wave(2), wave(), "ours are [789].. dB .* must be finite, 10 dB"),
        (wave() + 0.01 * wave(1), wave(1), wave(), "peer -[0-9.]* dB; they must be finite"),
        (wave(), wave() + 0.01 * wave(1), wave(), "ours are inf dB"),
        (wave() * 0, wave() * 0, wave() * 0, "ours are nan dB"),
        (wave() * math.nan, wave(), wave(), "audio of ours are not finite"),
        (wave(), wave() * math.nan, wave(), "audio of the default peer are not finite"),
        (wave(), wave(), wave() * math.nan, "not finite"),
        (wave()[:, :9], wave()[:, :9], wave(), "shape"),
    ],
)
def test_errors_that_say_nothing_are_told(ours: Tensor, theirs: Tensor, reference: Tensor, message: str) -> None:
    sides = ({"audio": [tensor]} for tensor in (ours, theirs, reference))
    with pytest.raises(EqualityError, match=message):
        no_worse("case", "default", *sides)


def test_codes_may_differ_by_accident_only() -> None:
    codes = torch.arange(300).reshape(1, -1)
    few, many = codes.clone(), codes.clone()
    few[0, :3] += 1
    many[0, :4] += 1
    assert check_codes("case", "default", [codes], [codes[..., None]]) == ""
    assert check_codes("case", "default", [few], [codes[..., None]]).startswith("3 of 300 codes")
    with pytest.raises(EqualityError, match="4 of 300 codes of ours and of the default peer differ"):
        check_codes("case", "default", [many], [codes[..., None]])
    with pytest.raises(EqualityError, match=r"ours read \[300\] codes, the default peer \[300, 300\]"):
        different_codes("case", "default", [codes], [codes, codes])
