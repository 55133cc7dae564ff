"""Differences between the outputs of two sides, and the accepted limits."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.errors import RestyleError

TOLERANCES = {"latents": 1e-4, "audio": 1e-3, "velocity": 1e-4, "unconditional velocity": 1e-4}
FLIPPED = 0.01  # share of codes that may differ by rounding at a quantization boundary
SLACK_DB = 1.0  # tolerance for the rounding of two independent implementations
# Unrelated noise has -3 dB and silence 0 dB. The peer's own error is not judged: it accumulates its steps in the
# lower precision, and with few steps its waveform is at 5 dB.
FLOOR_DB, PEER_FLOOR_DB = 20.0, 1.0
AUDIO_FLOOR_DB = 10.0  # a decoder with random weights adds 10 to 20 dB to the error of its latents
UNTIMED = "Neither this case nor what comes after it was timed: find the difference first"

Outputs = Mapping[str, Sequence[Tensor]]


class EqualityError(RestyleError):
    """The outputs of the sides differ; the case was not timed."""


@dataclass(frozen=True)
class Agreement:
    """One comparison that passed.

    off: largest difference over the largest value of the reference; None where noise ratios were compared.
    ours_db, peer_db: signal to noise against fp32, where the sides run in less.
    """

    output: str
    allowed: float | None = None
    off: float | None = None
    ours_db: float | None = None
    peer_db: float | None = None
    note: str = ""


def relative(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of the reference."""
    off = (ours.cpu().double() - reference.cpu().double()).abs().max()
    return (off / reference.abs().max().clamp(min=1e-12).cpu()).item()


def noise_ratio_db(found: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Signal to noise ratio of ``found`` in dB, over all tensors; infinite without noise, NaN without signal."""
    signal = noise = 0.0
    for one, other in zip(found, reference, strict=True):
        wide = other.cpu().double()
        signal += wide.square().sum().item()
        noise += (one.cpu().double() - wide).square().sum().item()
    if not signal:
        return math.nan
    return 10 * math.log10(signal / noise) if noise else math.inf


def check_form(case: str, peer: str, ours: Outputs, theirs: Outputs) -> None:
    """Check that both sides made the same number of finite tensors of equal shapes.

    Raises:
        EqualityError: they did not.
    """
    if not theirs:
        reason = f"the {peer} peer made nothing to compare with. {UNTIMED}"
        raise EqualityError("unequal_outputs", reason, where=case)
    for name in {**theirs, **ours}:
        own, other = ours.get(name, ()), theirs.get(name, ())
        if not own or len(own) != len(other):
            raise EqualityError(
                "unequal_outputs",
                f"ours made {len(own)} {name}, the {peer} peer {len(other)}. {UNTIMED}",
                where=case,
            )
        for a, b in zip(own, other, strict=True):
            if a.shape != b.shape:
                shapes = f"ours have the shape {list(a.shape)}, those of the {peer} peer {list(b.shape)}"
                raise EqualityError("unequal_outputs", f"of {shapes}. {UNTIMED}", field=name, where=case)
        for side, tensors in (("ours", own), (f"the {peer} peer", other)):
            if not all(torch.isfinite(tensor).all() for tensor in tensors):
                raise EqualityError(
                    "unequal_outputs", f"of {side} are not finite. {UNTIMED}", field=name, where=case
                )


def equal(case: str, peer: str, ours: Outputs, theirs: Outputs, note: str = "") -> list[Agreement]:
    """Compare outputs in fp32.

    Raises:
        EqualityError: an output differs by more than its tolerance, or in number or shape.
    """
    check_form(case, peer, ours, theirs)
    found = []
    for name, reference in theirs.items():
        off = max(relative(a, b) for a, b in zip(ours[name], reference, strict=True))
        allowed = TOLERANCES[name]
        if not off <= allowed:
            remedy = f"allowed is {allowed:g}. {UNTIMED}"
            reason = f"of ours and of the {peer} peer differ by {off:.2e} of the largest value"
            raise EqualityError("unequal_outputs", reason, remedy, name, where=case)
        found.append(Agreement(name, allowed, off, note=note))
    return found


def no_worse(
    case: str, peer: str, ours: Outputs, theirs: Outputs, reference: Outputs, note: str = ""
) -> list[Agreement]:
    """Compare the errors of both sides against the peer's outputs in fp32.

    Raises:
        EqualityError: an output of ours has an error larger than the peer's by more than ``SLACK_DB``; or an error
            is so large or so small that the comparison is meaningless.
    """
    check_form(case, peer, ours, theirs)
    check_form(case, peer, ours, reference)
    found = []
    for name, exact in reference.items():
        our_db, peer_db = noise_ratio_db(ours[name], exact), noise_ratio_db(theirs[name], exact)
        apart = (
            f"{name} of ours are {our_db:.1f} dB above their error against fp32, those of the "
            f"{peer} peer {peer_db:.1f} dB"
        )
        floor = AUDIO_FLOOR_DB if name == "audio" else FLOOR_DB
        if not (floor <= our_db < math.inf and PEER_FLOOR_DB <= peer_db < math.inf):
            floors = f"{floor:g} dB and {PEER_FLOOR_DB:g} dB at least"
            remedy = f"they must be finite, {floors}. {UNTIMED}"
            raise EqualityError("unequal_outputs", apart, remedy, where=case)
        if our_db < peer_db - SLACK_DB:
            remedy = f"allowed is {SLACK_DB:g} dB less. {UNTIMED}"
            raise EqualityError("unequal_outputs", apart, remedy, where=case)
        found.append(Agreement(name, ours_db=our_db, peer_db=peer_db, note=note))
    return found


def different_codes(case: str, peer: str, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> int:
    """The number of codes that differ.

    Raises:
        EqualityError: the sides have different numbers of codes.
    """
    counts = [[one.numel() for one in side] for side in (ours, theirs)]
    if counts[0] != counts[1]:
        reason = f"ours read {counts[0]} codes, the {peer} peer {counts[1]}. {UNTIMED}"
        raise EqualityError("unequal_outputs", reason, where=case)
    pairs = zip(ours, theirs, strict=True)
    return sum(int((a.flatten().cpu() != b.flatten().cpu()).sum()) for a, b in pairs)


def check_codes(case: str, peer: str, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> str:
    """Compare the codes of both sides; "" where all are equal, else a note on how many differ.

    At a quantization boundary, a rounding difference of 1e-7 changes a code by a whole step.

    Raises:
        EqualityError: more codes differ than rounding explains.
    """
    different, total = different_codes(case, peer, ours, theirs), sum(one.numel() for one in theirs)
    if different > max(1, FLIPPED * total):
        remedy = f"rounding explains no more than {FLIPPED:.0%}. {UNTIMED}"
        reason = f"{different} of {total} codes of ours and of the {peer} peer differ"
        raise EqualityError("unequal_outputs", reason, remedy, where=case)
    return f"{different} of {total} codes fall on the other side by rounding: compared from equal codes" * bool(
        different
    )
