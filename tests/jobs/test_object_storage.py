"""Manifest, sources and results on S3, with a server that fails and goes away."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import soundfile

from pipeline.catalogue.probe import probe
from pipeline.results.missing_audio import covers_without_audio
from pipeline.results.reader import read_results
from pipeline.storage import store as storage
from pipeline.storage.output_store import OutputError, OutputStore
from pipeline.storage.store import StorageError, absolute, locate, open_store
from tests.conftest import tone
from tests.miniature import BASE
from tests.s3_server import S3Server

ROOT = Path(__file__).parents[2]
NAMES = ("a", "b", "c")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


def restyle(manifest: str, output: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.restyle", f"manifest={manifest}", f"output={output}"]
    command += [f"model={BASE}", "tracking.enabled=false", "cover.inference_steps=2"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_catalogue_on_s3_survives_a_bad_server(s3: S3Server, tmp_path: Path) -> None:
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.create_bucket(Bucket="songs")
    rows = [{"track_id": name, "source": f"sub/{name}.flac", "caption": "jazz"} for name in NAMES]
    (tmp_path / "sub").mkdir()
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in NAMES:
        soundfile.write(tmp_path / "sub" / f"{name}.flac", tone(5.2, pitch_hz=200 + 40 * ord(name)), 48_000)
        client.upload_file(str(tmp_path / "sub" / f"{name}.flac"), "songs", f"in/sub/{name}.flac")
    client.upload_file(str(tmp_path / "m.jsonl"), "songs", "in/m.jsonl")
    undisturbed = restyle(f"{tmp_path}/m.jsonl", f"{tmp_path}/out")
    assert undisturbed.returncode == 0, undisturbed.stderr

    s3.fail_every = 5
    finished = threading.Event()

    def go_away() -> None:
        while not client.list_objects_v2(Bucket="songs", Prefix="out/audio").get("KeyCount"):
            if finished.wait(0.2):
                return
        with s3.down():
            time.sleep(10)

    trouble = threading.Thread(target=go_away)
    trouble.start()
    done = restyle("s3://songs/in/m.jsonl", "s3://songs/out")
    finished.set()
    trouble.join()
    assert done.returncode == 0, done.stderr
    assert s3.failed > 3

    s3.fail_every = 0
    local, remote = (read_results(open_store(place)) for place in (f"{tmp_path}/out", "s3://songs/out"))
    digests = [
        dict(zip(t["track_id"].to_pylist(), t["audio_sha256"].to_pylist(), strict=True)) for t in (local, remote)
    ]
    assert digests[0] == digests[1]
    assert len(remote) == 3
    for row in remote.to_pylist():
        written = open_store("s3://songs/out").read(row["audio_path"])
        assert written == (tmp_path / "out" / row["audio_path"]).read_bytes()
    again = restyle("s3://songs/in/m.jsonl", "s3://songs/out")
    assert again.returncode == 0
    assert "0 covers of 0 tracks (3 are done already)" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["audio", "results"])
def test_a_bucket_that_refuses_ends_the_job(s3: S3Server, tmp_path: Path, folder: str) -> None:
    """Covers and rows alike; the next launch makes the rest, a file that was lost meanwhile included."""
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.create_bucket(Bucket="songs")
    output = f"s3://songs/{folder}-refused"
    rows = [{"track_id": name, "source": f"{name}.flac", "caption": "jazz"} for name in NAMES]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in NAMES:
        soundfile.write(tmp_path / f"{name}.flac", tone(5.2, pitch_hz=200 + 40 * ord(name)), 48_000)
    s3.refuse = {f"/songs/{folder}-refused/{folder}/": ("403 Forbidden", "AccessDenied")}
    done = restyle(f"{tmp_path}/m.jsonl", output)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"output {output}: " in done.stderr
    assert "ACCESS_DENIED" in done.stderr
    assert "the same command goes on" in done.stderr

    s3.refuse = {}
    again = restyle(f"{tmp_path}/m.jsonl", output)
    assert again.returncode == 0, again.stdout + again.stderr
    table = read_results(open_store(output))
    assert sorted(table["track_id"].to_pylist()) == list(NAMES)
    gone = table["audio_path"][0].as_py()
    client.delete_object(Bucket="songs", Key=f"{folder}-refused/{gone}")
    again = restyle(f"{tmp_path}/m.jsonl", output)
    assert again.returncode == 0
    assert "1 of these were finished" in again.stdout
    (row,) = [row for row in read_results(open_store(output)).to_pylist() if row["audio_path"] == gone]
    assert len(open_store(output).read(gone)) == row["audio_bytes"]


@pytest.mark.parametrize("answer", [("403 Forbidden", "AccessDenied"), ("507 Insufficient Storage", "Quota")])
def test_a_bucket_that_refuses_is_the_outputs_fault(
    s3: S3Server, answer: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PAUSES_S", (0.0,))
    monkeypatch.setattr(storage, "S3_ATTEMPTS", 1)
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="songs")
    query = f"?endpoint_override=127.0.0.1:{s3.port}&scheme=http"
    output = OutputStore(*locate(f"s3://songs/out{query}"))
    output.write("job.json", b"1")
    s3.refuse = {"/songs/out/audio/": answer}
    with pytest.raises(OutputError, match="output s3://songs/out: "):
        output.write("audio/a.flac", b"1")
    with pytest.raises(FileNotFoundError):
        output.read("audio/a.flac")
    with s3.down():
        with pytest.raises(OutputError):
            output.read("job.json")
        with pytest.raises(OutputError):
            covers_without_audio(output)
        assert probe(f"s3://songs/a.flac{query}").error_kind == "source_unavailable"
    assert probe(f"s3://songs/a.flac{query}").error_kind == "missing_file"


def test_places_on_object_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    query = "?endpoint_override=http://127.0.0.1:9&region=eu-west-1"
    filesystem, path = locate(f"s3://songs/a%20b/c.wav{query}")
    assert (filesystem.type_name, filesystem.region, path) == ("s3", "eu-west-1", "songs/a b/c.wav")
    assert locate(f"s3://songs/other.wav{query}")[0] is filesystem
    assert absolute("sub/x.wav", f"s3://songs/in/m.csv{query}") == f"s3://songs/in/sub/x.wav{query}"
    assert absolute("s3://else/x.wav", "s3://songs/in/m.csv") == "s3://else/x.wav"
    with pytest.raises(StorageError, match="unknown option 'endpoint'; known: endpoint_override"):
        locate("s3://songs/a.wav?endpoint=http://127.0.0.1:9")
    assert locate("file:///tmp/a%20b.wav")[1] == "/tmp/a b.wav"
