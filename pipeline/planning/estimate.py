"""What a job would do, without doing it: how much work, how long by what was measured before, how much space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.catalogue.grid import Setting
from pipeline.planning.items import ModelFacts
from pipeline.planning.plan import Plan
from pipeline.results.table import read_results
from pipeline.storage.store import Store

MEASURED = ("model_fingerprint", "dtype", "status", "duration_s", "evaluations", "denoise_s", "audio_bytes")
MEASURED_ONCE = ("condition_s", "decode_s", "measure_s", "write_s")


@dataclass(frozen=True)
class Estimate:
    """What is left to do on a folder.

    items, tracks: to make; done: items that are there.
    audio_hours: of covers to make.
    worker_hours, gigabytes: at the rates of covers of this model, from the folder itself or else from the one
        named for its rates; None where there are none.
    problems: rows that cannot be run, with the reason.
    lost: of the items to make, those whose audio files are gone or not whole.
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
    """Seconds of work per second of audio: of each network evaluation, and of all else; bytes per second."""

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
    """What ``plan`` amounts to.

    Args:
        rates_from: another output folder, asked for its rates where ``store`` has none of this model.
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
    """Rates of the covers that a folder holds of this model in this dtype; None where it holds none."""
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
    """A forecast in words, by what it is about."""
    unknown = "not known before a cover of this model is made here"
    gone = {"lost": f"{found.lost} of these were finished, and their audio files are gone or not whole"}
    return {
        "to do": f"{found.items} covers of {found.tracks} tracks, {found.audio_hours:.2f} h of audio",
        **(gone if found.lost else {}),
        "done": f"{found.done} items",
        "time": unknown if found.worker_hours is None else f"{found.worker_hours:.2f} worker hours",
        "space": unknown if found.gigabytes is None else f"{found.gigabytes:.2f} GB",
    }
