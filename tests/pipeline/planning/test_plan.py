"""The plan: identity, what is left to do, and what is final before anything runs."""

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from acestep.constants import MIN_WORK_S, NUMERICS_VERSION
from pipeline.catalogue import probe as probing
from pipeline.catalogue.grid import Point, RepeatsError, make_settings
from pipeline.catalogue.manifest import RejectedRow, parse_track
from pipeline.catalogue.presets import Preset
from pipeline.catalogue.probe import ProbeCache, probe
from pipeline.planning.items import ItemRules, ModelFacts
from pipeline.planning.plan import make_plan as plan_rows
from pipeline.planning.plan_file import PlanWriter, read_plan
from pipeline.planning.schema import PLAN_SCHEMA
from pipeline.storage.store import open_store
from tests.conftest import tone

MODEL = ModelFacts("demo", "f00d", is_turbo=False, dtype="float32")
BASE = {"audio_cover_strength": 0.5, "guidance_scale": 9.0, "seed": 42}
SETTINGS = make_settings(BASE, {"audio_cover_strength": [0.3, 0.6]})


def make_plan(tracks, rejected, rules: ItemRules, finished: set[str]) -> SimpleNamespace:
    """The plan with everything that left it."""
    work, final = [PLAN_SCHEMA.empty_table()], []
    look = lambda uris: {uri: probe(uri) for uri in uris}  # noqa: E731
    plan = plan_rows([*rejected, *tracks], rules, finished, look, work.append, final.append)
    rows = [row for table in final for row in table.to_pylist()]
    return SimpleNamespace(
        rows=pa.concat_tables(work),
        failed=[row for row in rows if row["status"] == "failed"],
        rejected=[row for row in rows if row["status"] == "rejected"],
        **vars(plan),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, seconds in (("short", 1.0), ("long", 3.0)):
        soundfile.write(tmp_path / f"{name}.wav", tone(seconds), 48_000)
    return tmp_path


def track(folder: Path, source: str, **values: object):
    row = {"track_id": source, "source": f"{source}.wav", "caption": "jazz"} | values
    return parse_track(row, str(folder / "manifest.csv"))


def ids(tracks, settings=SETTINGS, model=MODEL, audio_format="flac", finished=frozenset()):
    plan = make_plan(tracks, [], ItemRules(settings, model, audio_format), set(finished))
    return [item["item_id"] for row in plan.rows.to_pylist() for item in row["items"]]


def test_work_is_counted_in_seconds_of_source(folder: Path) -> None:
    plan = make_plan([track(folder, "short"), track(folder, "long")], [], ItemRules(SETTINGS, MODEL), set())
    assert (plan.tracks, plan.items, plan.set_aside) == (2, 4, 0)
    assert plan.rows["source_duration_s"].to_pylist() == [1.0, 3.0]
    assert dict(plan.seconds) == {setting.setting_id: 2 * MIN_WORK_S for setting in SETTINGS}


@pytest.mark.parametrize("max_bytes", [1, 10_000, 1 << 20])
def test_the_longest_work_is_first_in_the_file_whatever_fits_into_memory(tmp_path: Path, max_bytes: int) -> None:
    rng, writer, store = random.Random(0), PlanWriter(max_bytes), open_store(str(tmp_path))
    seconds = [rng.uniform(6, 600 if k % 4 == 0 else 12) for k in range(400)]
    for start in range(0, 400, 40):
        rows = [
            {"track_id": str(k), "source_duration_s": seconds[k], "items": [{}]} for k in range(start, start + 40)
        ]
        writer.add(pa.Table.from_pylist(rows, schema=PLAN_SCHEMA))
    writer.write(store)
    pieces = list(read_plan(store, 60.0, 2))
    assert all(len(piece) == 1 or sum(piece["source_duration_s"].to_pylist()) <= 60 for piece in pieces)
    assert max(map(len, pieces)) > 3
    assert {len(piece) for piece in pieces[-4:]} == {1}
    found = [value for piece in pieces for value in piece["source_duration_s"].to_pylist()]
    assert sorted(found) == sorted(seconds)
    assert all(later <= 2 * earlier for earlier, later in itertools.pairwise(found))
    if max_bytes == 1 << 20:
        assert found == sorted(seconds, reverse=True)


def test_identity_holds_what_determines_the_audio_and_nothing_else(folder: Path) -> None:
    same = track(folder, "short")
    first = ids([same])
    assert len(set(first)) == 2
    (folder / "sub").mkdir()
    (folder / "sub" / "renamed.wav").write_bytes((folder / "short.wav").read_bytes())
    moved = replace(same, source=str(folder / "sub" / "renamed.wav"))
    assert ids([moved]) == first
    changed = {
        "caption": ids([track(folder, "short", caption="metal")]),
        "lyrics": ids([track(folder, "short", lyrics="la")]),
        "bpm": ids([track(folder, "short", bpm="90")]),
        "seed": ids([track(folder, "short", seed="1")]),
        "shift": ids([track(folder, "short", shift="1")]),
        "reference": ids([track(folder, "short", reference_audio="long.wav")]),
        "model": ids([same], model=replace(MODEL, fingerprint="beef")),
        "dtype": ids([same], model=replace(MODEL, dtype="bfloat16")),
        "format": ids([same], audio_format="mp3"),
    }
    soundfile.write(folder / "short.wav", 0.5 * tone(1.0), 48_000)
    changed["content"] = ids([same])
    every = [first, *changed.values()]
    assert len({item for some in every for item in some}) == 2 * len(every)


def test_requested_values_that_run_the_same_are_one_item(folder: Path) -> None:
    """28 x 0.50 and 28 x 0.51 are both 14 steps."""
    nearly = make_settings(BASE | {"audio_cover_strength": 0.51}, {})
    assert ids([track(folder, "short")], nearly) == ids([track(folder, "short")], make_settings(BASE, {}))


def test_finished_items_are_left_out(folder: Path) -> None:
    tracks = [track(folder, "short"), track(folder, "long")]
    every = ids(tracks)
    assert ids(tracks, finished={every[0], every[3]}) == [every[1], every[2]]
    plan = make_plan(tracks, [], ItemRules(SETTINGS, MODEL), set(every))
    assert (plan.tracks, plan.items, plan.done) == (0, 0, 4)


def test_unusable_sources_are_final_rows_for_every_setting(folder: Path) -> None:
    (folder / "empty.wav").write_bytes(b"")
    tracks = [track(folder, "absent"), track(folder, "empty"), track(folder, "short", reference_audio="gone.wav")]
    plan = make_plan(tracks, [], ItemRules(SETTINGS, MODEL), set())
    assert [(row["track_id"], row["error_kind"]) for row in plan.failed] == [
        *[("absent", "missing_file")] * 2,
        *[("empty", "unreadable_audio")] * 2,
        *[("short", "missing_file")] * 2,
    ]
    assert len({row["item_id"] for row in plan.failed}) == 6
    assert plan.items == 0
    again = make_plan(tracks, [], ItemRules(SETTINGS, MODEL), {row["item_id"] for row in plan.failed})
    assert (again.failed, again.done) == ([], 6)


def test_too_long_and_conflicting_tracks_are_rejected_once(folder: Path) -> None:
    soundfile.write(folder / "hour.wav", np.zeros(8000 * 601), 8000)
    tracks = [track(folder, "hour"), track(folder, "short", audio_cover_strength="0.4")]
    bad_row = RejectedRow(3, "../evil", "a.wav", "x", "unsafe_track_id", "row 3: no")
    plan = make_plan(tracks, [bad_row], ItemRules(SETTINGS, MODEL), set())
    kinds = {row["track_id"]: (row["error_kind"], row["error_message"]) for row in plan.rejected}
    assert kinds["hour"] == ("too_long", "601.0 s is longer than 600 s; cut the track")
    assert kinds["short"][0] == "conflicting_override"
    assert "audio_cover_strength is given in the manifest and swept by the grid" in kinds["short"][1]
    assert kinds["../evil"] == ("unsafe_track_id", "row 3: no")
    again = make_plan(tracks, [bad_row], ItemRules(SETTINGS, MODEL), {row["item_id"] for row in plan.rejected})
    assert (again.rejected, again.done) == ([], 3)


def test_overrides_that_make_two_settings_the_same_are_rejected(folder: Path) -> None:
    """Of two steps, strengths 0.3 and 0.4 both follow the source for none."""
    settings = make_settings(BASE, {"audio_cover_strength": [0.3, 0.4]})
    plan = make_plan([track(folder, "short", inference_steps="2")], [], ItemRules(settings, MODEL), set())
    (row,) = plan.rejected
    assert (
        "with this row's inference_steps the settings s0.30 and s0.40 give identical audio" in row["error_message"]
    )


def test_overrides_replace_what_is_not_swept(folder: Path) -> None:
    plan = make_plan([track(folder, "short", shift="2", seed="9")], [], ItemRules(SETTINGS, MODEL), set())
    items = plan.rows["items"][0].as_py()
    assert [json.loads(item["stages"])[-1]["shift"] for item in items] == [2.0, 2.0]
    assert [item["seed"] for item in items] == [9, 9]


METAL = Preset("to_metal", "country", "metal", "metal, loud", {"audio_cover_strength": 0.4, "shift": 2.0})


def settings_in(plan) -> list[dict]:
    return [json.loads(item["stages"])[-1] for row in plan.rows.to_pylist() for item in row["items"]]


def test_a_rows_preset_gives_way_to_what_is_set_by_hand(folder: Path) -> None:
    values = {"track_id": "t", "source": "short.wav", "source_genre": "Country", "target_genre": "metal"}
    manifest = str(folder / "manifest.csv")
    plain, own = (parse_track(values | more, manifest, [METAL]) for more in ({}, {"shift": "1.5", "caption": "x"}))
    assert (plain.prompt.caption, own.prompt.caption) == ("metal, loud", "x")
    settings = make_settings(BASE, {})

    def run(track, settings=settings, **more):
        plan = make_plan([track], [], ItemRules(settings, MODEL, **more), set())
        return [(setting["audio_cover_strength"], setting["shift"]) for setting in settings_in(plan)]

    assert run(plain) == [(0.4, 2.0)]
    assert run(own) == [(0.4, 1.5)]
    assert run(plain, by_hand=("audio_cover_strength",)) == [(0.5, 2.0)]
    swept = make_settings(BASE, {"audio_cover_strength": [0.3, 0.6]})
    assert run(plain, swept, by_hand=("audio_cover_strength",)) == [(0.3, 2.0), (0.6, 2.0)]
    # A stage's own values stay, and the preset fills the others.
    staged = make_settings(BASE, {}, [{"audio_cover_strength": 0.9}, {"shift": 1.0}])
    assert run(plain, staged) == [(0.9, 2.0), (0.4, 1.0)]
    plan = make_plan([plain, track(folder, "long")], [], ItemRules(settings, MODEL, preset="jobs_own"), set())
    assert dict(zip(*plan.rows.select(["track_id", "preset"]).to_pydict().values(), strict=True)) == {
        "t": "to_metal",
        "long": "jobs_own",
    }


def test_every_setting_may_stand_in_a_manifest_column(folder: Path) -> None:
    """Values that only make sense together, too: the plan looks at the row as a whole."""
    together = [
        {"flow_edit_morph": "true", "flow_edit_source_caption": "country", "flow_edit_n_avg": "2"},
        {"retake_variance": 0.5, "retake_seed": 7},
        {"dcw_enabled": True, "dcw_mode": "low", "timesteps": [1.0, 0.5, 0.0]},
        {"infer_method": "sde", "sde_time": "unshifted", "guidance": "cfg"},
    ]
    for values in together:
        plan = make_plan([track(folder, "short", **values)], [], ItemRules(make_settings(BASE, {}), MODEL), set())
        (setting,) = settings_in(plan)
        for name, value in values.items():
            assert str(setting[name]).lower() == str(value).lower()
    alone = make_plan(
        [track(folder, "short", retake_variance=0.5)], [], ItemRules(make_settings(BASE, {}), MODEL), set()
    )
    assert "give retake_seed" in alone.rejected[0]["error_message"]


def test_a_seed_is_not_retaken_with_itself(folder: Path) -> None:
    settings = make_settings(BASE | {"retake_variance": 0.5, "retake_seed": 7}, {"seed": [6, 7]})
    plan = make_plan([track(folder, "short")], [], ItemRules(settings, MODEL), set())
    assert "retake_seed 7 is the seed itself" in plan.rejected[0]["error_message"]


def test_repeats_are_found_with_a_rows_own_values(folder: Path) -> None:
    """Of 28 steps 0.30 and 0.31 are both eight; of 100 they are not."""
    settings = make_settings(BASE, {"audio_cover_strength": [0.3, 0.31]})

    def names(duplicates: str, **values: object) -> list[str]:
        tracks = [track(folder, "short", **values)]
        plan = make_plan(tracks, [], ItemRules(settings, MODEL, duplicates=duplicates), set())
        return [item["setting_name"] for row in plan.rows.to_pylist() for item in row["items"]]

    assert names("run_once") == ["s0.30"]
    assert names("run_once", inference_steps=100) == ["s0.30", "s0.31"]
    assert names("refuse", inference_steps=100) == ["s0.30", "s0.31"]
    assert names("refuse", shift=2) == []


def test_a_pick_without_a_reference_is_no_other_item(folder: Path) -> None:
    def picks(**values: object) -> set[str]:
        return {
            item
            for pick in ("fixed", "full")
            for item in ids([track(folder, "short", reference_pick=pick, **values)], make_settings(BASE, {}))
        }

    assert len(picks()) == 1
    assert len(picks(reference_audio="long.wav")) == 2


def test_items_of_a_chain_name_their_parent(folder: Path) -> None:
    stages = [{"caption": "rock"}, {}, {"caption": "metal"}]
    settings = make_settings(BASE, {"seed": [1, 2]}, stages)
    plan = make_plan([track(folder, "short")], [], ItemRules(settings, MODEL), set())
    items = plan.rows.to_pylist()[0]["items"]
    assert [i["parent_item_id"] for i in items[:3]] == [None, items[0]["item_id"], items[1]["item_id"]]
    assert len({i["item_id"] for i in items}) == 6
    staged = ItemRules(make_settings(BASE, {}, [{"shift": 2}]), MODEL)
    conflict = make_plan([track(folder, "short", shift="1")], [], staged, set())
    assert "shift is given in the manifest and set by a stage" in conflict.rejected[0]["error_message"]


def test_a_point_for_some_tracks_and_a_row_that_sets_a_swept_seed(folder: Path) -> None:
    points = [Point({"seed": 1}, frozenset(["short"])), Point({"seed": 2})]
    rules = ItemRules(make_settings(BASE, {}, points=points), MODEL)
    plan = make_plan([track(folder, "short"), track(folder, "long")], [], rules, set())
    assert [[item["seed"] for item in row["items"]] for row in plan.rows.to_pylist()] == [[1, 2], [2]]
    conflict = make_plan([track(folder, "short", seed="1")], [], rules, set())
    assert "seed is given in the manifest and swept by the grid" in conflict.rejected[0]["error_message"]


def test_the_language_model_is_part_of_the_identity(folder: Path) -> None:
    with_one, with_other = (ids([track(folder, "short")], model=replace(MODEL, language_model=m)) for m in "ab")
    assert not {*with_one} & {*with_other, *ids([track(folder, "short")])}


def test_a_file_is_looked_at_once_until_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, looked = open_store(str(folder / "out")), []
    monkeypatch.setattr(probing, "probe", lambda uri, **how: looked.append(Path(uri).name) or probe(uri))
    uris = [str(folder / name) for name in ("short.wav", "long.wav", "absent.wav")]
    first = ProbeCache(store, "1").of([*uris, *uris])
    assert sorted(looked) == ["absent.wav", "long.wav", "short.wav"]
    assert ProbeCache(store, "2").of(uris) == first
    assert looked[3:] == ["absent.wav"]  # what is not there may come
    soundfile.write(folder / "short.wav", tone(2.0), 48_000)
    again = ProbeCache(store, "3").of(uris)
    assert looked[4:].count("short.wav") == 1
    assert again[uris[0]].duration_s == 2.0
    assert ProbeCache(store, "4").of(uris)[uris[0]] == again[uris[0]]


def test_a_length_that_another_version_read_is_read_anew(folder: Path) -> None:
    store, uri = open_store(str(folder / "out")), str(folder / "short.wav")
    first = ProbeCache(store, "1").of([uri])[uri]
    (part,) = store.files("probes", ".parquet")
    table = pq.read_table(folder / "out" / part)
    store.delete(part)
    part = "probes/part-1-00000.parquet"
    wrong = table.set_column(table.schema.get_field_index("duration_s"), "duration_s", [[99.0]])
    older = wrong.set_column(
        table.schema.get_field_index("numerics_version"),
        "numerics_version",
        pa.array([NUMERICS_VERSION - 1], pa.int32()),
    )
    for stale in (older, wrong.drop_columns("numerics_version")):
        pq.write_table(stale, folder / "out" / part)
        assert ProbeCache(store, "2").of([uri])[uri] == first
        for name in store.files("probes", ".parquet"):
            store.delete(name)
    pq.write_table(wrong, folder / "out" / part)
    assert ProbeCache(store, "3").of([uri])[uri].duration_s == 99.0


def test_plain_rows_of_a_repeating_grid_stop_the_job(folder: Path) -> None:
    settings = make_settings(BASE, {"audio_cover_strength": [0.3, 0.31]})
    with pytest.raises(RepeatsError, match=r"s0\.30 = s0\.31"):
        make_plan([track(folder, "short")], [], ItemRules(settings, MODEL), set())
