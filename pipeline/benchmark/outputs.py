"""What a side makes, and how far two sides are apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.errors import RestyleError

TOLERANCES = {"latents": 1e-4, "audio": 1e-3, "velocity": 1e-4, "unconditional velocity": 1e-4}
FLIPPED = 0.01  # share of codes that rounding may put on the other side of a code's edge
SLACK_DB = 1.0  # roundings of two implementations are two draws: one is always a little behind

Outputs = Mapping[str, Sequence[Tensor]]


class EqualityError(RestyleError):
    """The two sides do not make the same; nothing was timed."""


@dataclass(frozen=True)
class Agreement:
    """One comparison that was passed.

    off: largest difference over the largest value of the reference; None where noise ratios were compared.
    ours_db, peer_db: signal to noise against fp32, where the sides run in less.
    note: what else is to be known.
    """

    output: str
    allowed: float | None = None
    off: float | None = None
    ours_db: float | None = None
    peer_db: float | None = None
    note: str = ""


def relative(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the largest absolute value; infinite where shapes differ or not finite."""
    if ours.shape != reference.shape or not (torch.isfinite(ours).all() and torch.isfinite(reference).all()):
        return math.inf
    off = (ours.cpu().double() - reference.cpu().double()).abs().max()
    return (off / reference.abs().max().clamp(min=1e-12).cpu()).item()


def noise_ratio_db(found: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Signal to noise of ``found`` in dB, over all tensors; minus infinity where shapes differ or not finite."""
    signal = noise = 0.0
    for one, other in zip(found, reference, strict=True):
        if one.shape != other.shape or not torch.isfinite(one).all():
            return -math.inf
        wide = other.cpu().double()
        signal += wide.square().sum().item()
        noise += (one.cpu().double() - wide).square().sum().item()
    return 10 * math.log10(signal / noise) if noise else math.inf


def equal(case: str, peer: str, ours: Outputs, theirs: Outputs, note: str = "") -> list[Agreement]:
    """Compare in fp32.

    Raises:
        EqualityError: an output differs by more than it may.
    """
    found = []
    for name, reference in theirs.items():
        off = max(relative(a, b) for a, b in zip(ours[name], reference, strict=True))
        allowed = TOLERANCES[name]
        if not off <= allowed:
            raise EqualityError(
                f"{case}: {name} of ours and of the {peer} peer differ by {off:.2e} of the largest value; "
                f"allowed is {allowed:g}. Nothing was timed: find the difference first"
            )
        found.append(Agreement(name, allowed, off, note=note))
    return found


def no_worse(
    case: str, peer: str, ours: Outputs, theirs: Outputs, reference: Outputs, note: str = ""
) -> list[Agreement]:
    """Compare both with what the peer makes in fp32.

    Raises:
        EqualityError: an output of ours is further from it than the peer's.
    """
    found = []
    for name, exact in reference.items():
        our_db, peer_db = noise_ratio_db(ours[name], exact), noise_ratio_db(theirs[name], exact)
        if not our_db >= peer_db - SLACK_DB:
            raise EqualityError(
                f"{case}: {name} of ours are {our_db:.1f} dB above their error against fp32, those of the "
                f"{peer} peer {peer_db:.1f} dB. Nothing was timed: find the difference first"
            )
        found.append(Agreement(name, ours_db=our_db, peer_db=peer_db, note=note))
    return found


def check_codes(case: str, peer: str, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> str:
    """Compare the codes that both read from their sources; "" where all are equal, else how many are not.

    Codes are rounded, and rounding makes a difference of 1e-7 a whole step where a value lies on a code's edge.

    Raises:
        EqualityError: more differ than such accidents explain.
    """
    total = sum(one.numel() for one in theirs)
    different = sum(
        (a.flatten().cpu() != b.flatten().cpu()).sum().item() if a.numel() == b.numel() else b.numel()
        for a, b in zip(ours, theirs, strict=True)
    )
    if different > max(1, FLIPPED * total):
        raise EqualityError(
            f"{case}: {different} of {total} codes of ours and of the {peer} peer differ; rounding explains no "
            f"more than {FLIPPED:.0%}. Nothing was timed: find the difference first"
        )
    return f"{different} of {total} codes fall on the other side by rounding: compared from equal codes" * bool(
        different
    )
