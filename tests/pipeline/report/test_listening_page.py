"""What is on the page: every cover in its cell, all text as text, and no more than fits."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import Tensor

from acestep.errors import AudioError, RequestError
from pipeline.report.labels import SHOWN, format_value
from pipeline.report.listening_page import listening_page
from pipeline.report.page_budget import AUDIO_BYTES, BYTES_PER_SECOND, fit_page
from pipeline.report.track_picks import TrackPick
from tests.pipeline.report.covers import cover, failed, judged, music, table

SONG = music("song", 1.5)


def song(row: dict) -> Tensor:
    return SONG


def page(rows: list[dict], seconds: float = 1.5, **own: Any) -> str:
    rows = [row | {"duration_s": seconds} for row in rows]
    arguments = {"read_source": song, "read_cover": song, "notes": ()} | own
    samples = [TrackPick(track, "a rule") for track in dict.fromkeys(row["track_id"] for row in rows)]
    return listening_page("Covers", table(rows), samples, **arguments).decode()


def content(page: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found)


def grid(track: dict[str, Any]) -> dict[tuple[str, str], list[dict]]:
    cells: dict[tuple[str, str], list[dict]] = {}
    for entry in track["covers"]:
        cells.setdefault((track["across"][entry["column"]], track["down"][entry["row"]]), []).append(entry)
    return cells


def test_strength_runs_across_and_guidance_down_in_rising_order() -> None:
    rows = [cover("t", strength, guidance) for guidance in (11.0, 7.0) for strength in (1.0, 0.1, 0.25)]
    data = content(page(rows))
    (track,) = data["tracks"]
    assert (track["across"], track["down"]) == (
        ["strength 0.10", "strength 0.25", "strength 1.00"],
        ["guidance 7", "guidance 11"],
    )
    for (across, down), found in grid(track).items():
        assert [entry["setting"] for entry in found] == [f"{across}, {down}"]
    assert {entry["name"] for entry in track["covers"]} == {row["setting_name"] for row in rows}


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("audio_cover_strength", 0.3, "strength 0.30"),
        ("audio_cover_strength", 0.125, "strength 0.125"),
        ("audio_cover_strength", 1.0, "strength 1.00"),
        ("cover_noise_strength", 0.0, "cover noise strength 0.00"),
        ("guidance_scale", 9.0, "guidance 9"),
        ("guidance_scale", 9.5, "guidance 9.5"),
        ("cfg_interval_start", 0.25, "guidance from 0.25"),
        ("inference_steps", 28, "steps 28"),
        ("inference_steps", None, "model's own steps"),
        ("infer_method", "sde", "infer method sde"),
        ("dcw_enabled", True, "dcw enabled on"),
        ("timesteps", (1.0, 0.5), "timesteps (1.0, 0.5)"),
        ("stage", 2, "stage 2"),
        ("setting_name", "model A", "model A"),
    ],
)
def test_parameters_are_written_out(name: str, given: Any, said: str) -> None:
    assert format_value(name, given) == said


def test_every_measure_that_colours_has_a_fixed_scale() -> None:
    data = content(page([cover("t", 0.5, 7.0)]))
    scales = {measure["name"]: measure["scale"] for measure in data["measures"] if measure["key"]}
    assert scales == {measure.name: list(measure.scale or ()) for measure in SHOWN if measure.label}
    assert all(low < high for low, high in scales.values())


def test_a_cover_that_nobody_judged_is_called_so() -> None:
    rows = [cover("t", 0.5, g) for g in (5.0, 7.0)]
    rows[0] |= {"cover/outcome": None, "cover/reason": "9.0 s are too few"}
    told = {entry["setting"]: entry for entry in content(page(rows))["tracks"][0]["covers"]}
    assert [told[f"guidance {g}"]["outcome"] for g in (5, 7)] == ["not judged", "ok"]
    assert told["guidance 5"]["reason"] == "9.0 s are too few"


def test_other_parameters_make_the_axes_where_strength_does_not_vary() -> None:
    rows = [cover("t", 0.5, 7.0, shift=shift, inference_steps=n) for shift in (1.0, 3.0) for n in (None, 8)]
    data = content(page(rows))
    (track,) = data["tracks"]
    assert track["across"] == ["model's own steps", "steps 8"]
    assert track["down"] == ["shift 1", "shift 3"]
    (alone,) = content(page(rows[:1]))["tracks"]
    assert (alone["across"], alone["down"]) == ([""], [""])
    assert alone["covers"][0]["setting"] == "strength 0.50, guidance 7"


def test_further_parameters_and_seeds_share_a_cell_the_best_first() -> None:
    rows = [
        cover("t", strength, guidance, seed, shift=shift) | {"objective/score": 0.1 * seed + 0.01 * shift}
        for strength in (0.2, 0.8)
        for guidance in (5.0, 9.0)
        for shift in (1.0, 3.0)
        for seed in (1, 2)
    ]
    cells = grid(content(page(rows))["tracks"][0])
    assert len(cells) == 4
    wanted = ["shift 3, seed 2", "shift 1, seed 2", "shift 3, seed 1", "shift 1, seed 1"]
    assert all([entry["label"] for entry in found] == wanted for found in cells.values())
    ends = ["shift 3", "shift 1", "shift 3", "shift 1"]
    for (across, down), found in cells.items():
        assert [entry["setting"] for entry in found] == [f"{across}, {down}, {end}" for end in ends]
        assert [entry["seed"] for entry in found] == ["seed 2", "seed 2", "seed 1", "seed 1"]


def test_a_cover_that_failed_or_cannot_be_read_says_why() -> None:
    def read(row: dict) -> Tensor:
        if row["guidance_scale"] == 7:
            raise AudioError("unreadable_audio", "gone", where="s3://bucket/a.flac")
        return SONG

    made = [cover("t", 0.5, guidance) for guidance in (5.0, 7.0, 9.0)]
    rows = [failed(made[0], "out of memory"), made[1], judged(made[2], "lost")]
    found = {entry["setting"]: entry for entry in content(page(rows, read_cover=read))["tracks"][0]["covers"]}
    assert found["guidance 5"]["problem"] == "not_finite: out of memory"
    assert found["guidance 5"]["outcome"] == "failed"
    assert found["guidance 7"]["problem"] == "s3://bucket/a.flac: gone"
    assert found["guidance 9"]["outcome"] == "lost"
    assert found["guidance 9"]["audio"].startswith("data:audio/ogg;codecs=opus;base64,")


def test_a_source_that_cannot_be_read_leaves_its_covers() -> None:
    def gone(row: dict) -> Tensor:
        raise FileNotFoundError(2, "No such file", row["source"])

    (track,) = content(page([cover("t", 0.5, 7.0)], read_source=gone))["tracks"]
    assert "t.flac" in track["source"]["problem"]
    assert "audio" in track["covers"][0]


def test_an_error_that_is_no_fault_of_a_file_ends_the_page() -> None:
    def broken(row: dict) -> Tensor:
        raise KeyError("nonsense")

    with pytest.raises(KeyError, match="nonsense"):
        page([cover("t", 0.5, 7.0)], read_cover=broken)


def test_source_and_covers_are_cut_at_the_same_place() -> None:
    marked = torch.zeros(2, 60 * 48_000)
    marked[:, 26 * 48_000] = 0.9  # half through the 12 s from a third on
    reads = {"read_source": lambda row: marked, "read_cover": lambda row: marked}
    (track,) = content(page([cover("t", 0.5, 7.0)], seconds=60.0, **reads))["tracks"]
    for clip in (track["source"], track["covers"][0]):
        assert clip["peaks"].index(1.0) == 60


class Text(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)


def test_no_text_becomes_an_element() -> None:
    evil = "</script><script>alert(1)</script><!-- \"'&\u2028 ünï 曲 <img src=x onerror=alert(1)>"
    rows = [failed(cover("t", 0.5, 7.0), evil) | {"caption": evil}]
    plain, hostile = Text(), Text()
    plain.feed(page([failed(cover("t", 0.5, 7.0))]))
    made = listening_page(evil, table(rows), [TrackPick("t", evil)], song, song, [evil]).decode()
    hostile.feed(made)
    assert hostile.elements == plain.elements
    data = content(made)
    assert data["title"] == data["notes"][0] == data["tracks"][0]["caption"] == data["tracks"][0]["rule"] == evil


def test_the_page_names_no_address() -> None:
    made = page([cover("t", 0.5, 7.0)])
    assert set(re.findall(r"[a-z]+://[^\"'\s]+", made)) == {"http://www.w3.org/2000/svg"}
    assert not re.findall(r"(?:src|href)=\"(?!data:)", made)


def test_numbers_that_are_not_finite_are_left_out() -> None:
    rows = [cover("t", 0.5, 7.0) | {"audio/lufs": float("-inf"), "harmony/chroma_excess": float("nan")}]
    measures = content(page(rows))["tracks"][0]["covers"][0]["measures"]
    assert measures["audio/lufs"] is None
    assert measures["harmony/chroma_excess"] is None


def test_a_track_without_covers_is_refused() -> None:
    rows = table([cover("t", 0.5, 7.0)])
    with pytest.raises(RequestError, match="'u' has no covers"):
        listening_page("Covers", rows, [TrackPick("u", "")], song, song)


def sized(tracks: int, settings: int, seeds: int) -> tuple[list[dict], list[TrackPick]]:
    rows = [
        cover(f"t{t}", k / settings, 7.0, seed, setting_id=str(k)) | {"objective/score": (0.2, 0.9, 0.4)[seed]}
        for t in range(tracks)
        for k in range(settings)
        for seed in range(seeds)
    ]
    return rows, [TrackPick(f"t{t}", "") for t in range(tracks)]


def bytes_of(shown: Any) -> float:
    made = sum(row["status"] == "ok" for rows in shown.covers.values() for row in rows)
    return (made + len(shown.covers)) * shown.seconds * BYTES_PER_SECOND


def test_six_tracks_by_twenty_settings_are_shown_in_full() -> None:
    rows, samples = sized(6, 20, 1)
    shown = fit_page(table(rows), samples)
    assert (shown.seconds, shown.notes) == (12.0, ())
    assert sum(map(len, shown.covers.values())) == 120


def test_of_three_seeds_the_median_is_shown_where_all_would_be_too_many() -> None:
    rows, samples = sized(6, 20, 3)
    shown = fit_page(table(rows), samples)
    assert {row["objective/score"] for found in shown.covers.values() for row in found} == {0.4}
    assert [len(found) for found in shown.covers.values()] == [20] * 6
    assert "median score" in shown.notes[0]
    assert {len(found) for found in fit_page(table(sized(2, 20, 3)[0]), samples[:2]).covers.values()} == {60}


@pytest.mark.parametrize(("tracks", "settings"), [(6, 40), (6, 100), (1, 700)])
def test_whatever_there_is_fits_and_what_is_missing_is_told(tracks: int, settings: int) -> None:
    rows, samples = sized(tracks, settings, 1)
    shown = fit_page(table(rows), samples)
    assert bytes_of(shown) <= AUDIO_BYTES
    assert 6.0 <= shown.seconds <= 12.0
    left_out = tracks * settings - sum(map(len, shown.covers.values()))
    assert bool(left_out) == bool(shown.notes)


def test_covers_that_failed_take_no_room() -> None:
    rows, samples = sized(6, 40, 1)
    shown = fit_page(table([failed(row) if k % 2 else row for k, row in enumerate(rows)]), samples)
    assert shown.seconds == 12.0


def test_a_short_track_is_heard_whole_and_no_longer() -> None:
    found = table([cover("short", 0.5, 7.0, duration_s=4.0), cover("long", 0.5, 7.0, duration_s=30.0)])
    songs = {"short": music("short", 4.0), "long": music("long", 30.0)}
    samples = [TrackPick("short", "a rule"), TrackPick("long", "a rule")]
    shown = listening_page("t", found, samples, lambda r: songs[r["track_id"]], lambda r: songs[r["track_id"]])
    short, long = content(shown.decode())["tracks"]
    assert short["source"]["seconds"] == short["covers"][0]["seconds"] == 4
    assert min(short["source"]["peaks"]) > 0
    assert long["source"]["seconds"] == 12


def test_covers_of_others_stand_by_the_names_of_their_settings() -> None:
    """A list of pairs: no parameters, and seeds where somebody knew them."""
    plain = dict.fromkeys(("audio_cover_strength", "guidance_scale"))
    rows = [
        cover("t", 0.5, 7.0)
        | plain
        | {"setting_name": name, "setting_id": name, "seed": seed, "item_id": f"{name}{seed}"}
        for name in ("model A", "model B")
        for seed in (None, 1)
    ]
    (track,) = content(page(rows))["tracks"]
    assert track["across"] == ["model A", "model B"]
    assert {entry["label"] for entry in track["covers"]} == {"", "seed 1"}
    assert [entry["column"] for entry in track["covers"]] == [0, 0, 1, 1]
