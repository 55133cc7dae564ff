"""Equality checks of both sides before either is timed."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from acestep.errors import RestyleError
from acestep.handler import AceStepHandler
from acestep.runtime.torch_errors import ran_out_of_memory
from pipeline.benchmark.cases import CoverCase, StepCase, VaeCase
from pipeline.benchmark.output_diff import (
    Agreement,
    Outputs,
    check_codes,
    check_form,
    different_codes,
    equal,
    no_worse,
)
from pipeline.benchmark.timing import TimeSample, measured

AnyCase = CoverCase | StepCase | VaeCase
Checked = tuple[list[Agreement], TimeSample]
EqualityCheck = Callable[[AnyCase, str, AceStepHandler, Any], Checked]
Made = TypeVar("Made")


class PeerOutOfMemoryError(RestyleError):
    """There is not enough memory for the peer."""


@dataclass(frozen=True)
class Reference:
    """The peer's outputs in fp32.

    case: the compared case, from fixed codes if it has any.
    latents, codes: of the sources of ``case``.
    """

    case: AnyCase
    outputs: Outputs
    latents: list[Tensor] = field(default_factory=list)
    codes: list[Tensor] = field(default_factory=list)


def agree(case: AnyCase, peer: str, handler: AceStepHandler, pipeline: Any) -> Checked:
    """Compare both sides in fp32, in their first runs; also returns the time of the peer's.

    Raises:
        EqualityError: they differ.
        PeerOutOfMemoryError: there is not enough memory for the peer.
    """
    if not isinstance(case, CoverCase):
        theirs, first = by_peer(partial(measured, partial(case.theirs, pipeline), handler.device))
        return equal(case.name, peer, case.ours(handler), theirs), first
    watched, first = by_peer(partial(measured, partial(case.theirs_watched, pipeline), handler.device))
    ours = case.ours_watched(handler)
    note = check_codes(case.name, peer, ours.codes, watched.codes)
    if not note:
        return equal(case.name, peer, ours.outputs, watched.outputs), first
    case = case.from_codes(watched.codes)
    return equal(case.name, peer, case.ours(handler), by_peer(partial(case.theirs, pipeline)), note), first


def agree_in_less(
    case: AnyCase, peer: str, handler: AceStepHandler, pipeline: Any, reference: Reference
) -> Checked:
    """Compare the errors of both sides against fp32; also returns the time of the peer's first run.

    Covers are compared twice, since lower precision rounds to other codes: as they are timed, by number, shape,
    finiteness and the latents of the sources; and a few of them from the codes of fp32, by their outputs.

    Raises:
        EqualityError: the error of ours is larger.
        PeerOutOfMemoryError: there is not enough memory for the peer.
    """
    fixed, exact = reference.case, reference.outputs
    if not (isinstance(case, CoverCase) and isinstance(fixed, CoverCase)):
        theirs, first = by_peer(partial(measured, partial(case.theirs, pipeline), handler.device))
        return no_worse(case.name, peer, case.ours(handler), theirs, exact), first
    watched, first = by_peer(partial(measured, partial(case.theirs_watched, pipeline), handler.device))
    ours = case.ours_watched(handler)
    check_form(case.name, peer, ours.outputs, watched.outputs)
    count, total = len(reference.latents), sum(codes.numel() for codes in reference.codes)
    flips, their_flips = (
        different_codes(case.name, peer, side.codes[:count], reference.codes) for side in (ours, watched)
    )
    note = f"codes other than in float32, of {total}: ours {flips}, peer {their_flips}"
    own, theirs, right = ({"source latents": side.latents[:count]} for side in (ours, watched, reference))
    found = no_worse(case.name, peer, own, theirs, right, note)
    note = f"from the codes of float32, covers: {len(fixed.work.covers)} of {len(case.work.covers)}"
    found += no_worse(case.name, peer, fixed.ours(handler), by_peer(partial(fixed.theirs, pipeline)), exact, note)
    return found, first


def without_reference(case: AnyCase, peer: str, handler: AceStepHandler, pipeline: Any) -> Checked:
    """The check where the peer's fp32 reference ran out of memory: always raises."""
    raise PeerOutOfMemoryError("out_of_memory", "out of memory in float32, so nothing to compare with")


def make_equality_check(case: AnyCase, pipeline: Any) -> EqualityCheck:
    """The check of a case that runs in less than fp32; computes the reference with ``pipeline``, now in fp32."""
    try:
        reference = by_peer(partial(make_reference, case, pipeline))
    except PeerOutOfMemoryError:
        return without_reference
    return partial(agree_in_less, reference=reference)


def make_reference(case: AnyCase, pipeline: Any) -> Reference:
    """The fp32 reference of a case. The autoencoder is tiled: ten minutes in fp32 need 72 GB otherwise."""
    with in_tiles(pipeline.vae):
        if not isinstance(case, CoverCase):
            return Reference(case, case.theirs(pipeline))
        few = case.few()
        watched = few.theirs_watched(pipeline)
        fixed = few.from_codes(watched.codes)
        return Reference(fixed, fixed.theirs(pipeline), watched.latents, watched.codes)


@contextmanager
def in_tiles(vae: Any) -> Iterator[None]:
    """Tile the autoencoder within the block; tiles overlap by more than its receptive field."""
    before = vae.use_tiling
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.use_tiling = before


def by_peer(call: Callable[[], Made]) -> Made:
    """The result of ``call``.

    Raises:
        PeerOutOfMemoryError: there is not enough memory for it.
    """
    try:
        return call()
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
    # Outside the except block, where the traceback no longer keeps the allocated tensors alive.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise PeerOutOfMemoryError("out_of_memory", "out of memory")
