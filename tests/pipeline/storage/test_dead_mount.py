"""A mount whose server is gone holds up neither the other covers, nor a stop request, nor the plan."""

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import soundfile
from rich.console import Console

from pipeline.catalogue.probe import THREADS, ProbeCache, probe_all
from pipeline.catalogue.source_check import check_decoding
from pipeline.cluster.errors import StoppedError
from pipeline.cluster.spec import ClusterSpec
from pipeline.metrics.spec import MetricsSpec
from pipeline.report.spec import FindingsSpec
from pipeline.results.reader import current_rows
from pipeline.storage.read_timeout import MAX_HUNG, ReadTimeout
from pipeline.storage.store import open_store
from pipeline.tracking.spec import TrackingSpec
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.restyle import run
from pipeline.workflows.specs import RestyleJob
from tests import miniature
from tests.conftest import tone
from tests.dead_mount import DeadMount, can_mount, mounted

pytestmark = pytest.mark.skipif(not can_mount(), reason="FUSE filesystems may not be mounted here")
PATIENCE = ReadTimeout(timeout_s=2.0)
LIMIT_S = 60  # of a stop, on a busy machine


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[DeadMount]:
    for name in ("mnt", "content"):
        (tmp_path / name).mkdir()
    for k in range(40):
        (tmp_path / "content" / f"{k}.flac").write_bytes(song(200.0 + 10 * k))
    with mounted(tmp_path / "mnt", tmp_path / "content") as one:
        yield one


def song(pitch_hz: float) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, tone(1.0, pitch_hz=pitch_hz), 48_000, format="FLAC")
    return content.getvalue()


def test_a_look_at_the_sources_ends(tmp_path: Path, mount: DeadMount) -> None:
    (tmp_path / "good.flac").write_bytes(song(440.0))
    uris = [str(tmp_path / "good.flac"), *mount.paths]
    store = open_store(str(tmp_path / "out"))
    mount.die()
    for launch, look in enumerate((ProbeCache(store, "1", PATIENCE).of, lambda uris: probe_all(uris, PATIENCE))):
        began = time.monotonic()
        found = look(uris)
        # Nobody waits for every file in turn.
        assert time.monotonic() - began < PATIENCE.timeout_s * len(uris) / 2, launch
        assert [found[uri].error_kind for uri in uris] == [None, *["source_timeout"] * len(mount.paths)]
    assert check_decoding(uris[1], True, 600.0, PATIENCE).defect[0] == "source_timeout"
    hanging = [thread for thread in threading.enumerate() if thread.name == "restyle-read"]
    assert len(hanging) <= MAX_HUNG + THREADS
    mount.revive()
    time.sleep(0.5)
    again = ProbeCache(store, "2", PATIENCE).of(uris)
    assert not any(again[uri].error_kind for uri in uris)
    assert again[uris[0]] == found[uris[0]]


class Reporter(ConsoleReporter):
    """Does something when the plan is made, and when a cover is."""

    def __init__(self, planned: Callable[[], None], advanced: Callable[[], None] = lambda: None):
        super().__init__(Console(file=io.StringIO()))
        self.on_plan, self.on_cover = planned, advanced

    def planned(self, *told: object) -> None:
        self.on_plan()

    def advanced(self, progress: object) -> None:
        self.on_cover()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_covers_of_a_mount_that_dies_are_given_up_or_left_at_a_stop_and_made_later(
    tmp_path: Path, mount: DeadMount
) -> None:
    names = [str(tmp_path / "a.flac"), *(str(mount.folder / f"{k}.flac") for k in range(2))]
    (tmp_path / "a.flac").write_bytes(song(440.0))
    (tmp_path / "b.flac").write_bytes(song(880.0))

    def restyle(sources: list[str], timeout_s: float, reporter: Reporter) -> pa.Table:
        rows = [{"track_id": Path(name).stem, "source": name, "caption": "jazz"} for name in sources]
        (tmp_path / "tracks.jsonl").write_text("\n".join(map(json.dumps, rows)))
        job = RestyleJob(
            manifest=str(tmp_path / "tracks.jsonl"),
            output=str(tmp_path / "out"),
            model=miniature.TURBO,
            cover={"inference_steps": 1, "seed": 1},
            source_timeout_s=timeout_s,
            cluster=ClusterSpec(workers=1),
            tracking=TrackingSpec(enabled=False),
            metrics=MetricsSpec(enabled=False),
            findings=FindingsSpec(listen_tracks=0, pictures=False),
        )
        try:
            run(job, reporter)
        finally:
            kept = current_rows(open_store(str(tmp_path / "out")))
        return kept

    def kinds(kept: pa.Table) -> dict[str, str | None]:
        return dict(zip(kept["track_id"].to_pylist(), kept["error_kind"].to_pylist(), strict=True))

    given_up = restyle(names, 5.0, Reporter(mount.die))
    assert kinds(given_up) == {"a": None, **dict.fromkeys("01", "source_timeout")}

    mount.revive()
    stopped_at: list[float] = []

    def stop() -> None:
        stopped_at.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    # A worker takes three tracks at once: two that hang, and one that goes on.
    with pytest.raises(StoppedError):
        restyle([*names, str(tmp_path / "b.flac")], 600.0, Reporter(mount.die, stop))
    assert time.monotonic() - stopped_at[0] < LIMIT_S
    mount.revive()

    made = restyle([*names, str(tmp_path / "b.flac")], 60.0, Reporter(lambda: None))
    assert kinds(made) == dict.fromkeys("ab01")
    assert len(list((tmp_path / "out" / "audio").rglob("*.flac"))) == 4
