"""The page, HTTP and the catalogue job have one set of defaults; what a request may not set is not suggested."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from acestep.errors import RestyleError
from acestep.generation.params import GenerationConfig, GenerationParams
from acestep.language.prompt import Prompt
from acestep.sampling.plan import BASE_STEPS
from acestep.sampling.setting import SETTING_FIELDS, CoverSetting
from jobs.restyle import job_of
from jobs.schema import register
from pipeline.catalogue.manifest import Track, read_manifest
from pipeline.planning.items import ItemRules, ModelFacts, make_items
from pipeline.service.config import Limits
from pipeline.service.generation_request import check_parameters, make_generation_request
from pipeline.service.openapi import request_schema
from pipeline.service.page import text as words
from pipeline.service.problem_details import ProblemError
from pipeline.service.request_body import ACCEPTED, NAMES, parse
from pipeline.service.source_access import AdmittedSource
from pipeline.storage.store import open_store
from pipeline.worker.restyle_worker import RestyleWorker
from pipeline.workflows.specs import RestyleJob
from tests import miniature
from tests.pipeline.service.conftest import Served, facts, worker_at

CONF = Path(__file__).parents[3] / "conf"
TURBO = ModelFacts("demo_turbo", "f00d", is_turbo=True, dtype="float32")


@pytest.fixture
def job() -> Iterator[RestyleJob]:
    """``jobs.restyle`` without a key of ``cover``."""
    GlobalHydra.instance().clear()
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield job_of(compose("restyle", overrides=["manifest=m.csv", "output=out", f"model={miniature.BASE}"]))
    GlobalHydra.instance().clear()


def by_the_job(job: RestyleJob, song: Path, name: str, folder: Path, model: ModelFacts) -> list[dict[str, Any]]:
    """The rows that a worker of a job makes of one track, called ``name``."""
    (folder / "m.jsonl").write_text(json.dumps({"track_id": name, "source": str(song), "caption": "jazz"}))
    (track,) = read_manifest(str(folder / "m.jsonl"))
    assert isinstance(track, Track)
    digest = hashlib.sha256(song.read_bytes()).hexdigest()
    planned = {
        "track_id": track.track_id,
        "source": track.source,
        "source_digest": digest,
        "reference": None,
        "prompt": json.dumps(asdict(track.prompt)),
        "preset": None,
        "notes": list(track.notes),
        "source_duration_s": None,
        "items": list(make_items(track, digest, None, ItemRules(job.settings(), model, job.audio_format))),
    }
    store = open_store(str(folder / "out"))
    spec = worker_at(store, model=model.name, audio_format=job.audio_format)
    return list(RestyleWorker(spec).restyle(planned))


def test_a_turbo_model_at_shift_1_is_noted_by_the_job(served: Served, job: RestyleJob, tmp_path: Path) -> None:
    sweep = replace(job, grid={"shift": [1.0, 3.0]})
    rows = by_the_job(sweep, served.music / "country_song.wav", "a", tmp_path, facts(miniature.TURBO))
    noted = {row["effective_shift"]: any(note.startswith("shift ") for note in row["notes"]) for row in rows}
    assert noted == {1.0: True, 3.0: False}


def test_a_file_and_a_caption_make_the_cover_of_the_job(served: Served, job: RestyleJob, tmp_path: Path) -> None:
    song = served.music / "country_song.wav"
    (seed,) = {setting.seed for setting in job.settings()}
    with song.open("rb") as file:
        reply = httpx.post(
            served.generations,
            files={"src_audio": (song.name, file)},
            data={"caption": "jazz", "seed": str(seed), "response_format": "json"},
            timeout=60,
        )
    assert reply.status_code == 200, reply.text
    (cover,) = reply.json()["covers"]

    (row,) = by_the_job(job, song, cover["row"]["track_id"], tmp_path, facts())
    same = [*SETTING_FIELDS, "seed", "notes", "cover_steps", "t_start", "t_switch", "evaluations", "audio_sha256"]
    same += [name for name in row if name.startswith("effective_")]
    told = {name: cover["row"][name] for name in same}
    assert told == {name: row[name] for name in same}
    assert told["effective_inference_steps"] == BASE_STEPS
    assert cover["item_id"] == row["item_id"]
    assert (
        hashlib.sha256(httpx.get(served.address + cover["audio_url"]).content).hexdigest() == row["audio_sha256"]
    )


@pytest.mark.parametrize("model", [facts(), TURBO], ids=lambda model: model.name)
def test_the_page_begins_where_http_does(model: ModelFacts, job: RestyleJob) -> None:
    source = AdmittedSource("/kept/5eed", "5eed", 6.0)
    page = words.request_of(words.defaults(model.is_turbo) | {"caption": "jazz", "seed": "42"})
    http = parse({"caption": "jazz", "seed": 42})
    requests = [
        make_generation_request(params, config, source, None, model, Limits())
        for params, config in (page, (http.params, http.config))
    ]
    assert requests[0].item_ids == requests[1].item_ids
    assert requests[0].notes == requests[1].notes
    track = Track(requests[0].track["track_id"], "/kept/5eed", Prompt(**json.loads(requests[0].track["prompt"])))
    (item,) = make_items(track, "5eed", None, ItemRules(job.settings(), model, job.audio_format))
    assert (item["item_id"],) == requests[1].item_ids


def test_the_document_states_the_defaults_that_are_used() -> None:
    properties = request_schema()["properties"]
    used = parse({"caption": "jazz"})
    for name, schema in properties.items():
        if name in ("src_audio", "caption", "response_format"):
            assert "default" not in schema
            continue
        said = used.later if name == "async" else getattr(used.params, name, getattr(used.config, name, None))
        assert schema["default"] == said, name
    for name, value in asdict(CoverSetting()).items():
        assert properties[name]["default"] == value


def test_the_document_names_what_is_accepted_and_nothing_else() -> None:
    properties = request_schema()["properties"]
    assert properties.keys() == ACCEPTED
    for name in {*NAMES} - ACCEPTED:
        body = parse({"caption": "jazz", name: _changed(name)})
        with pytest.raises(RestyleError):
            check_parameters(body.params, body.config, facts(), Limits())


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("strength", "audio_cover_strength or cover_noise_strength"),
        ("audio_cover_strenght", "audio_cover_strength"),
        ("steps", "inference_steps"),
        ("language", "vocal_language or use_cot_language"),
        ("repaint_strenght", None),
        ("cot_bmp", None),
    ],
)
def test_a_hint_names_what_is_accepted(wrong: str, meant: str | None) -> None:
    with pytest.raises(ProblemError) as error:
        parse({"caption": "jazz", wrong: 1})
    assert error.value.kind == "unknown_field"
    hinted = error.value.remedy.removeprefix("did you mean ").rstrip("?").split(" or ")
    if error.value.remedy.startswith("did you mean"):
        assert {*hinted} <= ACCEPTED
    if meant is not None:
        assert hinted == meant.split(" or ")


def test_a_file_of_another_name_is_led_to_the_names_of_files() -> None:
    upload: Any = object()
    with pytest.raises(ProblemError) as error:
        parse({"caption": "jazz"}, {"audio": upload})
    assert error.value.remedy == "did you mean src_audio or reference_audio?"


def test_a_turbo_model_at_shift_1_is_noted_in_the_order() -> None:
    noted = {}
    for shift in (1.0, 3.0):
        body = parse({"caption": "jazz", "seed": 1, "shift": shift})
        request = make_generation_request(
            body.params, body.config, AdmittedSource("/5eed", "5eed", 6.0), None, TURBO, Limits()
        )
        noted[shift] = [note for note in request.notes if note.startswith("shift ")]
    assert noted[3.0] == []
    assert len(noted[1.0]) == 1


def test_notes_come_with_either_kind_of_reply(served: Served) -> None:
    asked = {"src_audio": "country_song.wav", "caption": "jazz", "seed": 1, "inference_steps": 1, "duration": 9}
    audio = httpx.post(served.generations, json=asked, timeout=60)
    told = httpx.post(served.generations, json=asked | {"response_format": "json"}, timeout=60).json()
    assert any(note.startswith("duration 9 has no effect") for note in told["notes"])
    assert any(note.startswith("lyrics are empty") for note in told["notes"])
    assert {*told["notes"]} <= {*json.loads(audio.headers["x-notes"])}
    # Where a row was made by an earlier request, the reply has the notes of this one.
    plain = httpx.post(served.generations, json=asked | {"duration": -1, "response_format": "json"}).json()
    assert plain["covers"][0]["item_id"] == told["covers"][0]["item_id"]
    assert not any(note.startswith("duration") for note in [*plain["notes"], *plain["covers"][0]["row"]["notes"]])
    assert httpx.get(served.address + told["url"]).json()["notes"] == told["notes"]


def test_notes_do_not_say_where_files_lie(served: Served) -> None:
    soundfile.write(served.music / "nothing.wav", [[0.0, 0.0]] * 48_000 * 6, 48_000)
    asked = {"src_audio": "country_song.wav", "reference_audio": "nothing.wav", "caption": "jazz", "seed": 1}
    reply = httpx.post(served.generations, json=asked | {"inference_steps": 1}, timeout=60)
    assert "reference_audio is silent" in reply.headers["x-notes"]
    assert str(served.music) not in reply.headers["x-notes"]


def test_a_bitrate_makes_another_item(served: Served) -> None:
    asked = {"src_audio": "country_song.wav", "caption": "jazz", "seed": 1, "inference_steps": 1}
    replies = [
        httpx.post(served.generations, json=asked | {"audio_format": "opus", "mp3_bitrate": rate}, timeout=60)
        for rate in ("48k", "256k")
    ]
    assert len({reply.headers["x-item-id"] for reply in replies}) == 2
    assert len(replies[0].content) < len(replies[1].content)


def _changed(name: str) -> Any:
    if name == "audio_codes":
        return "<|audio_code_1|>"
    default = getattr(GenerationParams, name, None) if name != "batch_size" else 2
    default = getattr(GenerationConfig, name, default)
    return not default if isinstance(default, bool) else "x" if isinstance(default, str | None) else default + 1
