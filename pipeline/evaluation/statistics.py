"""Bootstrap-t intervals and sign-flip tests for means over tracks.

The unit is the track: covers of one track resemble each other, so that only another track is independent evidence.
Columns are independent questions (settings, or pairs of settings); a missing value of a track is NaN.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
# With five tracks the most extreme sign pattern has p = 1/16: no result reaches 5 %.
FEWEST_TRACKS = 6
# More tracks than these are averaged in groups: sums of tracks are close to normal, so nothing is lost.
MAX_GROUPS = 400
RESAMPLES = 4096
FLIPS = 4096  # all sign patterns of 13 tracks, as a pattern and its opposite are equivalent
_BLOCK = 512  # sign patterns at a time, which bounds the memory of thousands of pairs
_SEED = 20_240_501  # fixed, for reproducible intervals


def mean_within(values: Floats, starts: NDArray[np.int64]) -> Floats:
    """Means ``[groups, columns]`` of consecutive rows of ``values`` ``[rows, columns]``, ignoring NaN.

    Args:
        starts: the first row of each group ``[groups]``, ascending.
    """
    known = ~np.isnan(values)
    sums = np.add.reduceat(np.where(known, values, 0.0), starts, axis=0)
    counts = np.add.reduceat(known.astype(np.int64), starts, axis=0)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def mean_over(tracks: Floats) -> Floats:
    """Means ``[columns]`` of ``tracks`` ``[tracks, columns]``, ignoring NaN."""
    if not len(tracks):
        return np.full(tracks.shape[1], np.nan)
    return mean_within(tracks, np.zeros(1, np.int64))[0]


def grouped(tracks: Floats) -> Floats:
    """``[tracks, columns]`` reduced to at most ``MAX_GROUPS`` rows with the same means.

    A row is the mean of all tracks plus the group's share of the deviations from it, so that every track keeps its
    weight where groups differ in size. A group without values is NaN.
    """
    if len(tracks) <= MAX_GROUPS:
        return tracks
    starts = np.linspace(0, len(tracks), MAX_GROUPS, endpoint=False).astype(np.int64)
    known, mean = ~np.isnan(tracks), mean_over(tracks)
    parts = np.add.reduceat(np.where(known, tracks - mean, 0.0), starts, axis=0)
    counts = np.add.reduceat(known.astype(np.int64), starts, axis=0)
    groups, n = (counts > 0).sum(0), np.maximum(counts.sum(0), 1)
    return np.where(counts > 0, mean + parts * groups / n, np.nan)


def interval(tracks: Floats) -> tuple[Floats, Floats]:
    """The 95 % interval, low and high ``[columns]``, of the means of ``tracks`` ``[tracks, columns]``.

    Bootstrap-t over tracks (Efron and Tibshirani 1993, ch. 12; Hall 1988): the deviation of each resample's mean
    is divided by the resample's own standard error. The plain percentile interval is too narrow for few tracks: at
    6 it covers the true mean 81..87 % of the time. In simulations this one covers it 94..98 %; 91 % at 6 tracks
    where scores are skewed or a fifth of them 0, and more than 99 % at 12 where most are 0. It stays within the
    range of the tracks. NaN under ``FEWEST_TRACKS`` tracks.
    """
    tracks = grouped(tracks)
    known = ~np.isnan(tracks)
    n = known.sum(0)
    enough = n >= FEWEST_TRACKS
    low, high = np.full((2, tracks.shape[1]), np.nan)
    if not enough.any():
        return low, high
    tracks, known, n = tracks[:, enough], known[:, enough], n[enough]
    mean = np.nanmean(tracks, axis=0)
    off = np.where(known, tracks - mean, 0.0)
    error = np.sqrt((off**2).sum(0) / (n - 1) / n)
    weights = _resamples(len(tracks))
    drawn = weights @ known
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = (weights @ off) / drawn
        spread = (weights @ off**2 - drawn * shift**2) / (drawn - 1) / drawn
        # The spread of a resample of equal tracks is rounding error; its t is infinite.
        t = shift / np.sqrt(np.where(spread > 1e-12 * error**2, spread, 0.0))
    t = np.sort(np.where(drawn > 1, t, np.nan), axis=0)  # NaN last
    found = (~np.isnan(t)).sum(0)
    below, above = (np.maximum((found * q).astype(int) - (q > 0.5), 0) for q in _tails())
    every = np.arange(t.shape[1])
    edges = mean - t[above, every] * error, mean - t[below, every] * error
    constant = error == 0
    low[enough] = np.where(constant, mean, np.fmax(edges[0], np.nanmin(tracks, axis=0)))
    high[enough] = np.where(constant, mean, np.fmin(edges[1], np.nanmax(tracks, axis=0)))
    return low, high


def sign_flip(differences: Floats) -> tuple[Floats, Floats]:
    """p and adjusted p ``[columns]`` for the means of ``differences`` ``[tracks, columns]`` being 0.

    Where two settings are equal, a track's difference is as likely to have the opposite sign (Fisher 1935). All
    sign patterns are used up to 13 tracks, random ones beyond; no distribution is assumed. NaN under
    ``FEWEST_TRACKS`` tracks.

    The adjusted p holds for all columns at once: Holm's step-down procedure with the resampled maximum in place of
    Bonferroni's factor (Westfall and Young 1993, algorithm 4.1). A factor of 190 pairs would leave 12 tracks
    without a verdict, however large the difference.
    """
    tracks = grouped(differences)
    n = (~np.isnan(tracks)).sum(0)
    tested = np.flatnonzero(n >= FEWEST_TRACKS)
    p, adjusted = np.full((2, tracks.shape[1]), np.nan)
    if not len(tested):
        return p, adjusted
    off = np.nan_to_num(tracks[:, tested])
    size = np.sqrt((off**2).sum(0))
    off /= np.where(size > 0, size, 1.0)
    order = np.argsort(-np.abs(off.sum(0)), kind="stable")
    off = off[:, order]
    seen = np.abs(off.sum(0)) * (1 - 1e-9)  # tolerates another order of summation
    signs = _signs(len(tracks))
    alone, together = np.zeros((2, len(order)))
    for first in range(0, len(signs), _BLOCK):
        chance = np.abs(signs[first : first + _BLOCK] @ off)
        alone += (chance >= seen).sum(0)
        # the maximum over a column and all less extreme ones
        largest = np.maximum.accumulate(chance[:, ::-1], axis=1)[:, ::-1]
        together += (largest >= seen).sum(0)
    p[tested[order]] = alone / len(signs)
    adjusted[tested[order]] = np.maximum.accumulate(together) / len(signs)
    return p, adjusted


def _tails() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2


@lru_cache(maxsize=4)
def _resamples(tracks: int) -> Floats:
    """How often each resample draws each track ``[RESAMPLES, tracks]``."""
    rng = np.random.default_rng(_SEED)
    return rng.multinomial(tracks, np.full(tracks, 1 / tracks), RESAMPLES).astype(np.float64)


@lru_cache(maxsize=4)
def _signs(tracks: int) -> Floats:
    """Sign patterns ``[FLIPS or all, tracks]``, the observed one (all +1) first."""
    if 2 ** (tracks - 1) <= FLIPS:
        bits = np.arange(2 ** (tracks - 1))[:, None] >> np.arange(tracks) & 1
    else:
        bits = np.random.default_rng(_SEED).integers(0, 2, (FLIPS, tracks))
        bits[0] = 0
    return (1 - 2 * bits).astype(np.float64)
