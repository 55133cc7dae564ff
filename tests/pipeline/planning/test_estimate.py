"""A forecast: counts from the plan, hours and space from what was measured before."""

from pathlib import Path

import pyarrow as pa
import pytest
import soundfile

from pipeline.catalogue.grid import make_settings
from pipeline.catalogue.manifest import parse_track
from pipeline.catalogue.probe import probe
from pipeline.planning.estimate import Estimate, estimate, lines
from pipeline.planning.items import ItemRules, ModelFacts
from pipeline.planning.plan import make_plan
from pipeline.results.writer import ResultWriter, as_table
from pipeline.storage.store import Store, open_store
from tests.conftest import tone

MODEL = ModelFacts("demo", "f00d", is_turbo=False, dtype="float32")


def foreseen(folder: Path, store: Store, **grid: object) -> Estimate:
    soundfile.write(folder / "a.wav", tone(10.0), 48_000)
    row = {"track_id": "a", "source": "a.wav", "caption": "x"}
    gone = {"track_id": "b", "source": "gone.wav", "caption": "x"}
    tracks = [parse_track(values, str(folder / "m.csv")) for values in (row, gone)]
    settings = make_settings({"seed": 1, "inference_steps": 10, "guidance_scale": 1.0}, grid)
    look = lambda uris: {uri: probe(uri) for uri in uris}  # noqa: E731
    problems: list[pa.Table] = []
    plan = make_plan(tracks, ItemRules(settings, MODEL), set(), look, lambda work: None, problems.append)
    return estimate(plan, settings, store, MODEL, pa.concat_tables(problems))


def test_nothing_is_guessed_before_anything_was_measured(tmp_path: Path) -> None:
    found = foreseen(tmp_path, open_store(str(tmp_path / "out")), seed=[1, 2])
    assert (found.items, found.tracks, found.done) == (2, 1, 0)
    assert found.audio_hours == pytest.approx(20 / 3600)
    assert (found.worker_hours, found.gigabytes) == (None, None)
    assert found.problems["error_kind"].to_pylist() == ["missing_file"] * 2
    assert "not known before" in lines(found)["time"]


def test_hours_follow_evaluations_and_seconds_of_the_same_model(tmp_path: Path) -> None:
    """100 s of audio with 20 evaluations took 40 s to denoise and 10 s besides, and 5 MB."""
    store = open_store(str(tmp_path / "out"))
    measured = {"denoise_s": 40.0, "condition_s": 2.0, "decode_s": 5.0, "write_s": 3.0, "audio_bytes": 5_000_000}
    row = {"status": "ok", "duration_s": 100.0, "evaluations": 20, "dtype": "float32"} | measured
    others = [row | {"dtype": "bfloat16", "denoise_s": 1.0}, row | {"status": "failed", "denoise_s": 1.0}]
    rows = [row | {"model_fingerprint": "f00d"}, *(o | {"model_fingerprint": "f00d"} for o in others)]
    writer = ResultWriter(store, "results")
    writer.add(as_table([*rows, row | {"model_fingerprint": "beef", "denoise_s": 1.0}]))
    writer.flush()
    found = foreseen(tmp_path, store, guidance_scale=[1.0, 3.0])
    # Ten steps unguided are 10 evaluations, guided up to 0.95 of them 20: 10 s x (10 + 20) x 0.02, and 20 s x 0.1.
    assert found.worker_hours == pytest.approx((10 * 30 * 0.02 + 20 * 0.1) / 3600)
    assert found.gigabytes == pytest.approx(20 * 50_000 / 1e9)
