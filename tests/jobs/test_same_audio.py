"""Same request, same audio: alone or among others, on one worker or two, in any order, first try or resumed."""

import contextlib
import io
import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import soundfile
from rich.console import Console

from acestep.audio.files import encode_audio
from acestep.handler import AceStepHandler
from acestep.inference import GenerationConfig, GenerationParams, generate_music
from pipeline.cluster.spec import ClusterSpec
from pipeline.metrics.spec import MetricsSpec
from pipeline.results.reader import current_rows, read_results
from pipeline.storage.store import open_store
from pipeline.tracking.spec import TrackingSpec
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.restyle import run
from pipeline.workflows.specs import RestyleJob
from tests.conftest import tone
from tests.miniature import BASE

COVER = {"inference_steps": 4, "guidance_scale": 5.0, "audio_cover_strength": 0.5, "seed": 7}
PITCHES = {"a": 220.0, "b": 330.0, "c": 440.0, "d": 275.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    rows = []
    for k, (name, pitch) in enumerate(PITCHES.items()):
        soundfile.write(folder / f"{name}.flac", tone(5.0 + k, pitch_hz=pitch), 48_000)
        rows.append({"track_id": name, "source": f"{name}.flac", "caption": f"style {name}"})
    for file, some in (("all", rows), ("reversed", rows[::-1]), ("alone", rows[1:2]), ("half", rows[:2])):
        (folder / f"{file}.jsonl").write_text("\n".join(map(json.dumps, some)))
    return folder


def restyle(folder: Path, manifest: str, output: str, workers: int, **changes: object) -> pa.Table:
    job = RestyleJob(
        manifest=str(folder / f"{manifest}.jsonl"),
        output=str(folder / output),
        cover=COVER,
        model=BASE,
        grid={"seed": [7, 8]},
        cluster=ClusterSpec(workers=workers),
        tracking=TrackingSpec(enabled=False),
        metrics=MetricsSpec(enabled=False),
    )
    summary = run(replace(job, **changes), ConsoleReporter(Console(file=io.StringIO())))
    assert summary.complete
    return read_results(open_store(str(folder / output)))


def samples(table: pa.Table) -> dict[str, str]:
    return dict(zip(table["item_id"].to_pylist(), table["audio_sha256"].to_pylist(), strict=True))


@pytest.mark.usefixtures("ray_cluster")
def test_same_audio_however_it_is_run(folder: Path, base: AceStepHandler) -> None:
    one = restyle(folder, "all", "one", workers=1)
    assert len(samples(one)) == len(one) == 8
    assert len(set(samples(one).values())) == 8
    alone = samples(restyle(folder, "alone", "alone", workers=1))
    assert alone.items() <= samples(one).items()
    assert len(alone) == 2

    # Begun with half of the manifest, finished in another order by a launch of two workers that repeats nothing.
    restyle(folder, "half", "resumed", workers=1)
    before = {f: f.stat().st_mtime_ns for f in (folder / "resumed" / "audio").rglob("*.flac")}
    resumed = restyle(folder, "reversed", "resumed", workers=2)
    assert len(before) == 4
    assert samples(resumed) == samples(one)
    assert len(resumed) == 8
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())

    # The Python API gives the same bytes as the job.
    params = GenerationParams(
        task_type="cover", src_audio=str(folder / "b.flac"), caption="style b", shift=3.0, cfg_interval_end=0.95,
        inference_steps=4, guidance_scale=5.0, audio_cover_strength=0.5, seed=8,
    )  # fmt: skip
    result = generate_music(base, None, params, GenerationConfig(batch_size=1))
    (row,) = [r for r in one.to_pylist() if (r["track_id"], r["seed"]) == ("b", 8)]
    assert (folder / "one" / row["audio_path"]).read_bytes() == encode_audio(result.audios[0]["tensor"], "flac")


@pytest.mark.usefixtures("ray_cluster")
def test_a_track_that_takes_its_worker_down_is_given_up_and_its_neighbours_are_not(folder: Path) -> None:
    """Kill -9 whichever process works on one item, as often as it is begun."""
    guilty = next(iter(samples(restyle(folder, "alone", "alone", workers=1))))
    kills, ended = [], threading.Event()

    def kill_whoever_begins_it() -> None:
        while not ended.is_set():
            for marker in (folder / "deaths" / "attempts").glob(f"*/{guilty}.[0-9]"):
                with contextlib.suppress(OSError):
                    if marker.name not in kills:
                        os.kill(json.loads(marker.read_text())["pid"], signal.SIGKILL)
                        kills.append(marker.name)
            time.sleep(0.002)

    killer = threading.Thread(target=kill_whoever_begins_it)
    killer.start()
    try:
        output = open_store(str(folder / "deaths"))
        job = RestyleJob(
            manifest=str(folder / "half.jsonl"),
            output=str(folder / "deaths"),
            cover=COVER,
            model=BASE,
            grid={"seed": [7, 8]},
            max_attempts=2,
            cluster=ClusterSpec(workers=1),
            tracking=TrackingSpec(enabled=False),
            metrics=MetricsSpec(enabled=False),
        )
        summary = run(job, ConsoleReporter(Console(file=io.StringIO())))
    finally:
        ended.set()
        killer.join()
    rows = {row["item_id"]: row for row in current_rows(output).to_pylist()}
    assert len(kills) == 2
    assert (rows[guilty]["status"], rows[guilty]["error_kind"]) == ("rejected", "worker_died")
    assert "died 2 times" in rows[guilty]["error_message"]
    assert (summary.ok, summary.failed, summary.rejected) == (3, 0, 1)
    assert not list((folder / "deaths" / "attempts").glob("*"))


@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_the_cluster_can_hold_is_an_error_not_a_hang(folder: Path) -> None:
    from acestep.errors import RequestError

    with pytest.raises(RequestError, match="2 workers need 1 GPU each, and there is place for 0"):
        restyle(folder, "all", "never", 1, cluster=ClusterSpec(workers=2, gpus_per_worker=1))
