"""A value is understood, or refused with the same words, by manifest, HTTP, page and Python."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from acestep.errors import RestyleError
from acestep.generation.params import GenerationConfig, GenerationParams
from acestep.generation.request import check_request, pick_seeds, prompt_of
from acestep.language.prompt import Prompt
from pipeline.catalogue.grid import make_settings
from pipeline.catalogue.manifest import RejectedRow, Track, read_manifest
from pipeline.planning.items import ItemRules, ModelFacts, make_items
from pipeline.service.config import Limits
from pipeline.service.generation_request import make_generation_request
from pipeline.service.page import text as page_words
from pipeline.service.problem_details import ProblemError
from pipeline.service.request_body import _from_text, _json, parse
from pipeline.service.source_access import AdmittedSource

MODEL = ModelFacts("demo", "f00d", is_turbo=False, dtype="float32")
SOURCE = AdmittedSource("/kept/5eed", "5eed", 6.0)
Heard = tuple[Prompt, int]


def by_manifest(folder: Path, name: str, value: object, kind: str) -> Heard:
    row = {"track_id": "5eed", "source": "a.wav", "caption": "x", "seed": 7} | {name: value}
    if kind == "csv":
        cells = {key: "" if cell is None else str(cell) for key, cell in row.items()}
        text = ",".join(cells) + "\n" + ",".join(f'"{cell}"' for cell in cells.values()) + "\n"
    else:
        text = json.dumps(row)
    (folder / f"tracks.{kind}").write_text(text, newline="")
    (track,) = read_manifest(str(folder / f"tracks.{kind}"))
    if isinstance(track, RejectedRow):
        raise RestyleError(track.kind, track.message.removeprefix("row 1: "))
    assert isinstance(track, Track)
    (item,) = make_items(track, "5eed", None, ItemRules(make_settings({"seed": 7}, {}), MODEL))
    return track.prompt, item["seed"]


def by_service(params: GenerationParams, config: GenerationConfig) -> Heard:
    track = make_generation_request(params, config, SOURCE, None, MODEL, Limits()).track
    return Prompt(**json.loads(track["prompt"])), track["items"][0]["seed"]


def by_http(name: str, value: object, as_form: bool) -> Heard:
    given: dict[str, Any] = {"caption": "x", "seed": 7} | {renamed(name): value}
    if as_form:
        given = {key: _from_text(key, "" if cell is None else str(cell)) for key, cell in given.items()}
    body = parse(_json(json.dumps(given).encode()))
    return by_service(body.params, body.config)


def by_page(name: str, value: object) -> Heard:
    given = page_words.defaults(False) | {"caption": "x", "seed": 7} | {renamed(name): value}
    return by_service(*page_words.request_of(given))


def by_python(name: str, value: object) -> Heard:
    given: dict[str, Any] = {"caption": "x", "seed": 7} | {renamed(name): value}
    params, config = check_request(GenerationParams(task_type="cover", **given), GenerationConfig(batch_size=1))
    return prompt_of(params)[0], pick_seeds(params.seed, config)[0]


def renamed(name: str) -> str:
    return {"language": "vocal_language"}.get(name, name)


def outcome(ask: Callable[[], Heard]) -> dict[str, Any] | str:
    try:
        prompt, seed = ask()
    except RestyleError as error:
        return str(error)
    return asdict(prompt) | {"seed": seed}


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("timesignature", "4/4", "4"),
        ("timesignature", 3, "3"),
        ("timesignature", 6.0, "6"),
        ("timesignature", None, ""),
        ("timesignature", "7/8", None),
        ("language", "zh-CN", "zh"),
        ("language", "EN", "en"),
        ("language", None, "unknown"),
        ("language", "English", None),
        ("keyscale", "a Minor", "A minor"),
        ("keyscale", "H", None),
        ("bpm", 108.0, 108),
        ("bpm", "108", 108),
        ("bpm", float("nan"), None),
        ("bpm", None, None),
        ("bpm", 0, ValueError),
        ("bpm", 100.5, ValueError),
        ("bpm", "fast", ValueError),
        ("lyrics", "la\r\nla", "la\nla"),
        ("lyrics", None, "[Instrumental]"),
        ("lyrics", 1975, "1975"),
        ("caption", "jazz\r\ntrio", "jazz\ntrio"),
        ("caption", 7.0, "7"),
        ("seed", 9.0, 9),
        ("seed", -2, ValueError),
        ("seed", 2**32, ValueError),
        ("seed", 0.5, ValueError),
    ],
)
def test_every_door_reads_alike(tmp_path: Path, name: str, value: object, read: object) -> None:
    typed = {
        "jsonl": outcome(lambda: by_manifest(tmp_path, name, value, "jsonl")),
        "json": outcome(lambda: by_http(name, value, as_form=False)),
        "page": outcome(lambda: by_page(name, value)),
        "python": outcome(lambda: by_python(name, value)),
    }
    first = typed["python"]
    assert all(other == first for other in typed.values()), typed
    refused = read is ValueError or (read is None and name != "bpm")
    assert isinstance(first, str) == refused
    if isinstance(first, dict):
        assert first[name] == read
        if name not in ("caption", "lyrics"):  # as text a number has a point
            assert outcome(lambda: by_manifest(tmp_path, name, value, "csv")) == first
            if value == value:
                assert outcome(lambda: by_http(name, value, as_form=True)) == first


@pytest.mark.parametrize("value", [["rock"], {"a": 1}, True])
@pytest.mark.parametrize("name", ["caption", "lyrics", "language", "keyscale", "timesignature", "bpm", "seed"])
def test_what_is_neither_text_nor_number_is_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    said = [
        outcome(lambda: by_manifest(tmp_path, name, value, "jsonl")),
        outcome(lambda: by_http(name, value, as_form=False)),
        outcome(lambda: by_python(name, value)),
    ]
    assert all(isinstance(words, str) and words.startswith((name, renamed(name))) for words in said), said


def test_a_seed_of_minus_one_is_random_everywhere(tmp_path: Path) -> None:
    doors = (
        lambda: by_manifest(tmp_path, "seed", -1, "jsonl"),
        lambda: by_manifest(tmp_path, "seed", "-1", "csv"),
        lambda: by_http("seed", -1, as_form=False),
        lambda: by_http("seed", -1, as_form=True),
        lambda: by_page("seed", "-1"),
        lambda: by_python("seed", -1),
    )
    seeds = [ask()[1] for ask in doors]
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seeds[0] == seeds[1]  # a catalogue's second launch goes on with the first one's covers
    assert len(set(seeds)) == 5
    listed = pick_seeds(-1, GenerationConfig(batch_size=3, seeds=[4, -1, -1]))
    assert listed[0] == 4
    assert len(set(listed)) == 3


def test_what_is_empty_over_http_is_not_given() -> None:
    names = ("bpm", "lyrics", "shift", "seed", "task_type", "batch_size", "async", "response_format", "stages")
    bare = parse({"caption": "x"})
    for empty in ("null", "NaN", '""'):
        text = json.dumps({"caption": "x"})[:-1] + "".join(f', "{name}": {empty}' for name in names) + "}"
        body = parse(_json(text.encode()))
        assert (body.params, body.config, body.reply, body.later) == (bare.params, bare.config, None, False)


def test_a_name_that_is_there_twice_is_refused() -> None:
    for text in ('{"caption": "a", "caption": "b"}', '{"caption": "a", "stages": [{"shift": 1, "shift": 2}]}'):
        with pytest.raises(ProblemError, match="given twice"):
            _json(text.encode())
    with pytest.raises(ProblemError, match="shift is given twice"):
        _from_text("stages", '[{"shift": 1, "shift": 2}]')
