"""Estimate of a job: remaining work, and worker hours and bytes from measured rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalogue.grid import Setting
from pipeline.planning.items import ModelFacts
from pipeline.planning.plan import Plan
from pipeline.results.reader import read_results
from pipeline.storage.store import Store

MEASURED = ("model_fingerprint", "dtype", "status", "duration_s", "evaluations", "denoise_s", "audio_bytes")
MEASURED_ONCE = ("condition_s", "decode_s", "measure_s", "write_s")


@dataclass(frozen=True)
class Estimate:
    """Remaining work of a job on an output folder.

    items, tracks: to make; done: finished items.
    audio_hours: of covers to make.
    worker_hours, gigabytes: at the measured rates of this model's covers, from the folder itself or else from
        ``rates_from``; None without any.
    problems: rows that cannot be run, with the reason.
    lost: items among those to make whose audio files are missing or truncated.
    """

    items: int
    tracks: int
    done: int
    audio_hours: float
    worker_hours: float | None
    gigabytes: float | None
    problems: pa.Table
    lost: int = 0


@dataclass(frozen=True)
class WorkRates:
    """Seconds of work per second of audio for each network evaluation and for all else, and bytes per second."""

    evaluation: float
    once: float
    bytes: float


def estimate(
    plan: Plan,
    settings: Sequence[Setting],
    store: Store,
    model: ModelFacts,
    problems: pa.Table,
    rates_from: Store | None = None,
) -> Estimate:
    """Estimate the work in ``plan``.

    Args:
        rates_from: another output folder, whose rates are used where ``store`` has none of this model.
    """
    evaluations = {s.setting_id: s.plans(model.is_turbo)[-1].evaluations for s in settings}
    rates = measured_rates(store, model)
    if rates is None and rates_from is not None:
        rates = measured_rates(rates_from, model)
    audio_s = float(sum(plan.seconds.values()))
    if rates is None:
        work_s = None
    else:
        steps_s = sum(seconds * evaluations[setting] for setting, seconds in plan.seconds.items())
        work_s = rates.evaluation * steps_s + rates.once * audio_s
    return Estimate(
        items=plan.items,
        tracks=plan.tracks,
        done=plan.done,
        audio_hours=audio_s / 3600,
        worker_hours=None if work_s is None else work_s / 3600,
        gigabytes=None if rates is None else audio_s * rates.bytes / 1e9,
        problems=problems,
        lost=len(plan.lost),
    )


def measured_rates(store: Store, model: ModelFacts) -> WorkRates | None:
    """Rates of the covers of this model in this dtype that a folder holds; None without any."""
    rows = read_results(store, columns=(*MEASURED, *MEASURED_ONCE))
    same = pc.and_(pc.equal(rows["model_fingerprint"], model.fingerprint), pc.equal(rows["dtype"], model.dtype))
    known = pc.and_(pc.equal(rows["status"], "ok"), pc.is_valid(rows["denoise_s"]))
    rows = rows.filter(pc.and_(same, known))
    if not len(rows):
        return None
    evaluated_s = _total(pc.multiply(rows["duration_s"], pc.cast(rows["evaluations"], pa.float64())))
    audio_s = _total(rows["duration_s"])
    return WorkRates(
        evaluation=_total(rows["denoise_s"]) / evaluated_s,
        once=sum(_total(rows[name]) for name in MEASURED_ONCE) / audio_s,
        bytes=_total(rows["audio_bytes"]) / audio_s,
    )


def _total(column: pa.ChunkedArray) -> float:
    return float(pc.sum(column).as_py() or 0.0)


def lines(found: Estimate) -> Mapping[str, str]:
    """An estimate in words, by topic."""
    unknown = "not known before a cover of this model is made here"
    gone = {"lost": f"{found.lost} of these were finished, and their audio files are gone or not whole"}
    return {
        "to do": f"{found.items} covers of {found.tracks} tracks, {found.audio_hours:.2f} h of audio",
        **(gone if found.lost else {}),
        "done": f"{found.done} items",
        "time": unknown if found.worker_hours is None else f"{found.worker_hours:.2f} worker hours",
        "space": unknown if found.gigabytes is None else f"{found.gigabytes:.2f} GB",
    }
