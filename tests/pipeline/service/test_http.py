"""The HTTP side, by a client: what it gets, and what it is told when it gets nothing."""

import hashlib
import io
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from prometheus_client.parser import text_string_to_metric_families

from acestep.audio.files import FORMATS, load_audio
from acestep.checkpoints.demo import ABOUT
from acestep.constants import SAMPLE_RATE
from acestep.handler import AceStepHandler
from acestep.inference import GenerationConfig, GenerationParams, generate_music
from pipeline.service.config import Limits
from tests.pipeline.service.conftest import KEYS, Served, serving

GUIDE = {
    "task_type": "cover",
    "src_audio": "country_song.wav",
    "caption": "heavy metal with distorted guitars, double bass drums",
    "audio_cover_strength": 0.5,
    "guidance_scale": 9.0,
    "inference_steps": 2,
}
LONG = GUIDE | {"inference_steps": 400, "async": True}
Eventually = Callable[[Callable[[], object]], None]


def ask(served: Served, **changes: Any) -> httpx.Response:
    body = {name: value for name, value in (GUIDE | changes).items() if value is not ...}
    return httpx.post(served.generations, json=body, timeout=60)


def test_the_guides_call_gives_a_cover_that_plays(served: Served) -> None:
    reply = ask(served, seed=1)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "audio/flac"
    assert reply.headers["x-seed"] == "1"
    samples, rate = soundfile.read(io.BytesIO(reply.content))
    assert (rate, samples.shape) == (48_000, (249_600, 2))
    assert np.abs(samples).max() > 0.1


@pytest.mark.parametrize("audio_format", FORMATS)
def test_every_format_decodes(served: Served, audio_format: str) -> None:
    reply = ask(served, seed=1, audio_format=audio_format)
    assert reply.status_code == 200
    wave = load_audio(io.BytesIO(reply.content))
    assert wave.shape[1] / SAMPLE_RATE == pytest.approx(5.2, abs=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"fade_in_duration": 1.0, "fade_out_duration": 2.0},
        {"normalization_db": -12.0},
        {"enable_normalization": False},
        {"latent_rescale": 0.9, "latent_shift": 0.05},
        {"lyrics": "la la", "vocal_language": "en", "bpm": 90, "keyscale": "G major", "timesignature": "3"},
        {"reference_audio": "other.flac"},
        {"use_adg": True},
        {"stages": [{"caption": "blues rock", "audio_cover_strength": 0.8}, {}]},
        {"timesteps": [1.0, 0.6, 0.3]},
        {"instruction": "Make it new:"},
    ],
    ids=str,
)
def test_a_request_gives_the_samples_of_the_python_api(
    served: Served, base: AceStepHandler, tmp_path: Path, changes: dict[str, Any]
) -> None:
    # Upstream's defaults, which are those of the Python API, are others than the service's.
    asked = GUIDE | {"seed": 3, "shift": 3.0, "cfg_interval_end": 0.95} | changes
    reply = httpx.post(served.generations, json=asked | {"audio_format": "wav32"}, timeout=60)
    assert reply.status_code == 200, reply.text
    files = {n: str(served.music / asked[n]) for n in ("src_audio", "reference_audio") if n in asked}
    config = GenerationConfig(batch_size=1, audio_format="wav32")
    made = generate_music(base, None, GenerationParams(**asked | files), config, tmp_path)
    assert made.success, made.error
    assert Path(made.audios[0]["path"]).read_bytes() == reply.content


def test_what_changes_the_samples_changes_the_item(served: Served) -> None:
    some: list[dict[str, Any]] = [{}, {"fade_in_duration": 1.0}, {"normalization_db": -9.0}, {"latent_shift": 0.1}]
    replies = [ask(served, seed=4, **changes) for changes in some]
    assert len({reply.headers["x-item-id"] for reply in replies}) == len(some)
    assert len({reply.content for reply in replies}) == len(some)


def test_json_has_the_row_and_a_link_that_plays(served: Served) -> None:
    reply = httpx.post(served.generations, json=GUIDE | {"seed": 5}, headers={"Accept": "application/json"})
    told = reply.json()
    (cover,) = told["covers"]
    assert (told["status"], told["progress"], cover["status"]) == ("done", 1.0, "done")
    row = cover["row"]
    assert row["effective_inference_steps"] == 2
    assert row["cover_steps"] == 1
    assert row["rhythm/onset_corr"] is not None
    audio = httpx.get(served.address + cover["audio_url"])
    assert hashlib.sha256(audio.content).hexdigest() == row["audio_sha256"]
    part = httpx.get(served.address + cover["audio_url"], headers={"Range": "bytes=0-99"})
    assert (part.status_code, part.content) == (206, audio.content[:100])
    assert httpx.get(served.address + told["url"]).json() == told
    assert httpx.get(f"{served.address}{told['url']}/audio/1").status_code == 404


def test_a_part_is_asked_for_by_get_alone(served: Served) -> None:
    part = {"Range": "bytes=0-99"}
    reply = httpx.post(served.generations, json=GUIDE | {"seed": 5}, headers=part, timeout=60)
    assert (reply.status_code, len(reply.content) > 100) == (200, True)


def test_a_file_is_sent(served: Served) -> None:
    with (served.music / "country_song.wav").open("rb") as file:
        sent = httpx.post(
            served.generations,
            files={"src_audio": ("my song.wav", file)},
            data={name: str(value) for name, value in (GUIDE | {"seed": 1}).items() if name != "src_audio"},
            timeout=60,
        )
    named = ask(served, seed=1)
    assert sent.status_code == 200, sent.text
    assert (sent.headers["x-item-id"], sent.content) == (named.headers["x-item-id"], named.content)


def test_several_covers_have_seeds_that_count_up(served: Served) -> None:
    told = ask(served, seed=6, batch_size=2).json()
    assert [cover["seed"] for cover in told["covers"]] == [6, 7]
    one = ask(served, seed=7)
    assert one.headers["x-item-id"] == told["covers"][1]["item_id"]


def test_what_was_made_is_not_made_again(served: Served) -> None:
    def evaluated(replies: list[httpx.Response]) -> set[str]:
        rows = [reply.json()["covers"][0]["row"] for reply in replies]
        assert len({row["item_id"] for row in rows}) == 1
        return {row["finished_at"][:23] for row in rows}  # to the millisecond, as it is written down

    replies: list[httpx.Response] = []

    def one() -> None:
        replies.append(ask(served, seed=8, response_format="json"))

    at_once = [threading.Thread(target=one) for _ in range(3)]
    for thread in at_once:
        thread.start()
    for thread in at_once:
        thread.join()
    one()
    assert len(evaluated(replies)) == 1


def test_later_step_by_step(served: Served, eventually: Eventually) -> None:
    reply = httpx.post(served.generations, json=GUIDE | {"seed": 9, "inference_steps": 40, "async": True})
    assert reply.status_code == 202
    place = served.address + reply.headers["location"]
    seen: list[float] = []

    def done() -> bool:
        told = httpx.get(place).json()
        seen.append(told["progress"])
        return bool(told["status"] == "done")

    eventually(done)
    assert seen == sorted(seen)
    assert any(0 < share < 1 for share in seen)


def test_cancelling_frees_the_model(served: Served, eventually: Eventually) -> None:
    running, queued = (httpx.post(served.generations, json=LONG | {"seed": k}).json() for k in (10, 11))
    shared = httpx.post(served.generations, json=LONG | {"seed": 11}).json()
    address = served.address
    eventually(lambda: httpx.get(address + running["url"]).json()["covers"][0]["step"] > 0)
    assert httpx.get(address + queued["url"]).json()["status"] == "queued"
    for request in (queued, running, running):
        assert httpx.delete(address + request["url"]).json()["status"] == "cancelled"
    # Somebody else still waits for what the first let go of.
    eventually(lambda: httpx.get(address + shared["url"]).json()["covers"][0]["step"] > 0)
    httpx.delete(address + shared["url"])
    eventually(lambda: httpx.get(f"{address}/health").json()["busy"] == 0)
    told = httpx.get(f"{address}{shared['url']}/audio/0")
    assert (told.status_code, told.json()["error"]["kind"]) == (409, "cancelled")
    # Asked for again, it is made: being cancelled is no property of an item.
    assert ask(served, seed=10).status_code == 200


def test_a_client_that_leaves_is_not_worked_for(served: Served, eventually: Eventually) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(served.generations, json=LONG | {"seed": 12, "async": False}, timeout=1.5)
    eventually(lambda: httpx.get(f"{served.address}/health").json()["busy"] == 0)


def test_too_many_are_told_when_to_come_again(served: Served) -> None:
    requests = [httpx.post(served.generations, json=LONG | {"seed": 100 + k}) for k in range(9)]
    taken = [reply.json()["url"] for reply in requests if reply.status_code == 202]
    try:
        refused = [reply for reply in requests if reply.status_code == 429]
        assert refused
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
        assert refused[0].json()["error"]["remedy"]
        # Nothing of what was refused is left for a restart to make.
        left = {file.stem for file in (served.output / "orders" / "open").iterdir()}
        assert left <= {url.rpartition("/")[2] for url in taken}
    finally:
        for url in taken:
            httpx.delete(served.address + url)


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"shift": 0}, 422, "shift"),
        ({"audio_cover_strength": 1.5}, 422, "audio_cover_strength"),
        ({"inference_steps": "many"}, 422, "inference_steps"),
        ({"caption": "  "}, 422, "caption"),
        ({"caption": ...}, 422, "caption"),
        ({"caption": True}, 422, "caption"),
        ({"caption": ["rock"]}, 422, "caption"),
        ({"caption": None}, 422, "caption"),
        ({"\ud800": 1}, 422, "\\ud800"),
        ({"caption": "half \ud800"}, 422, "caption"),
        ({"bpm": 1e300}, 422, "bpm"),
        ({"bpm": 10**400}, 422, "bpm"),
        ({"seed": -7.5}, 422, "seed"),
        ({"seed": -2}, 422, "seed"),
        ({"bpm": 0}, 422, "bpm"),
        ({"vocal_language": "English"}, 422, "vocal_language"),
        ({"batch_size": 9}, 422, "batch_size"),
        ({"batch_size": True}, 422, "batch_size"),
        ({"seeds": [1, 1], "batch_size": 2}, 422, "seeds"),
        ({"audio_format": "exe"}, 422, "audio_format"),
        ({"task_type": "repaint"}, 422, "task_type"),
        ({"repaint_strength": 0.1}, 422, "repaint_strength"),
        ({"thinking": True}, 422, "thinking"),
        ({"audio_codes": "<|audio_code_1|>"}, 422, "audio_codes"),
        ({"stages": [{"caption": ""}]}, 422, None),
        ({"stages": {"caption": "x"}}, 422, "stages"),
        ({"timesteps": [0.1, 0.9]}, 422, "timesteps"),
        ({"audio_cover_strenght": 0.5}, 422, "audio_cover_strenght"),
        ({"response_format": "mp3"}, 422, "response_format"),
        ({"response_format": "audio", "batch_size": 2}, 422, "response_format"),
        ({"async": "yes"}, 422, "async"),
        ({"src_audio": ...}, 422, "src_audio"),
        ({"src_audio": "absent.wav"}, 404, "src_audio"),
        ({"src_audio": {"path": "a.wav"}}, 422, "src_audio"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(served: Served, changes: dict[str, Any], status: int, field: str | None) -> None:
    body = {name: value for name, value in (GUIDE | changes).items() if value is not ...}
    reply = httpx.post(served.generations, content=json.dumps(body), headers={"Content-Type": "application/json"})
    error = reply.json()["error"]
    assert (reply.status_code, error["status"], error["field"]) == (status, status, field), error
    assert error["message"]
    assert error["remedy"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"caption": "a", "caption": "b"}', "application/json", 422),
        (b"caption=a&caption=b", "application/x-www-form-urlencoded", 422),
        (b'{"bpm": Infinity}', "application/json", 400),
        (b"[" * 50_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"--x\r\nbroken\r\n", "multipart/form-data; boundary=x", 400),
        (b"x", "multipart/form-data", 400),
        (b"<a/>", "application/xml", 415),
        (b"", "application/json", 400),
    ],
    ids=str,
)
def test_bodies_that_cannot_be_read(served: Served, content: bytes, kind: str, status: int) -> None:
    reply = httpx.post(served.generations, content=content, headers={"Content-Type": kind})
    assert (reply.status_code, reply.json()["error"]["status"]) == (status, status), reply.text


def test_parameters_in_the_address_are_refused(served: Served) -> None:
    reply = httpx.post(served.generations, json=GUIDE, params={"seed": 5})
    assert (reply.status_code, reply.json()["error"]["field"]) == (422, "seed")


def test_unknown_addresses_and_methods_have_the_same_form(served: Served) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("PUT", "/v1/audio/generations", 405),
        ("GET", "/v1/audio/generations/absent-id-of-nothing", 404),
        ("GET", "/v1/audio/generations/..%2f..%2fetc%2fpasswd", 404),
        ("DELETE", "/v1/audio/generations/x", 404),
        ("GET", "/v1/audio/generations/absent-id-of-nothing/audio/one", 422),
    ):
        reply = httpx.request(method, served.address + path)
        assert (reply.status_code, reply.json()["error"]["status"]) == (status, status), path


def test_the_other_addresses(served: Served) -> None:
    ask(served, seed=1)
    health = httpx.get(f"{served.address}/health").json()
    assert health["status"] == "ok"
    (model,) = httpx.get(f"{served.address}/v1/models").json()["data"]
    assert (model["id"], model["turbo"], model["note"]) == ("demo", False, ABOUT)
    metrics = {f.name: f for f in text_string_to_metric_families(httpx.get(f"{served.address}/metrics").text)}
    assert metrics["restyle_covers"].samples[0].value >= 1
    assert {"restyle_replies", "restyle_waiting_covers", "restyle_generation_seconds"} <= metrics.keys()


def test_replies_do_not_say_where_files_lie(served: Served) -> None:
    (served.music / "broken.wav").write_bytes(b"RIFF" + bytes(100))
    texts = [ask(served, seed=1, response_format="json").text, ask(served, src_audio="broken.wav").text]
    texts += [
        httpx.get(served.address + path).text for path in ("/v1/models", "/metrics", "/openapi.json", "/health")
    ]
    for text in texts:
        assert str(served.output) not in text
        assert str(served.music) not in text


@pytest.fixture(scope="module")
def guarded(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(music, tmp_path_factory.mktemp("guarded"), Limits(), KEYS) as one:
        yield one


def test_keys_open_it_and_part_its_users(guarded: Served) -> None:
    mine, other = ({"Authorization": f"Bearer {key}"} for key in KEYS)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Key": ""}, {"Authorization": "Basic eDp5"}):
        reply = httpx.post(guarded.generations, json=GUIDE, headers=headers)
        assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    told = httpx.post(
        guarded.generations, json=GUIDE | {"response_format": "json"}, headers=mine, timeout=60
    ).json()
    url = guarded.address + told["url"]
    assert httpx.get(url, headers={"X-API-Key": KEYS[0]}).status_code == 200
    assert httpx.get(url, headers=other).status_code == 404
    assert httpx.get(f"{url}/audio/0", headers=other).status_code == 404
    assert httpx.delete(url, headers=other).status_code == 404
    assert httpx.get(f"{guarded.address}/health").status_code == 200
    assert httpx.get(f"{guarded.address}/metrics").status_code == 401
    for text in (json.dumps(told), httpx.get(f"{guarded.address}/metrics", headers=mine).text):
        assert not any(key in text for key in KEYS)
    kept = [file.read_text() for file in guarded.output.rglob("*.json")]
    assert kept
    assert not any(re.search("|".join(KEYS), text) for text in kept)


def test_a_body_without_end_is_cut_off(served: Served) -> None:
    """Neither an announced length nor one that never ends is read beyond the limit."""
    host, port = served.address.removeprefix("http://").split(":")
    head = (
        f"POST /v1/audio/generations HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as announced:
        announced.sendall(f"{head}Content-Length: {2 << 30}\r\n\r\n".encode())
        assert b" 413 " in announced.recv(1000)
    with socket.create_connection((host, int(port)), timeout=10) as endless:
        endless.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        part = b'--x\r\nContent-Disposition: form-data; name="src_audio"; filename="a.wav"\r\n\r\n'
        endless.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        chunk = b"%x\r\n%b\r\n" % (1 << 16, bytes(1 << 16))
        sent = 0
        try:
            while sent < 100 << 20:
                endless.sendall(chunk)
                sent += len(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 20 << 20


@pytest.mark.parametrize("name", ["caption", "seed", "timesteps", "src_audio", "unknown"])
@pytest.mark.parametrize("levels", [50, 101, 900, 980, 100_000])
def test_values_nested_too_deep_are_the_senders_mistake(served: Served, name: str, levels: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        value = opening * levels + "1" + closing * levels
        sent = f'{{"{name}": {value}}}'.encode()
        reply = httpx.post(served.generations, content=sent, headers={"content-type": "application/json"})
        assert reply.status_code in (400, 413, 422)
        assert httpx.post(served.generations, data={name: value}).status_code in (400, 413, 422)
