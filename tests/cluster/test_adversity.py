"""All that can go wrong with storage, sources and processes, in a random order, and 300 items come out whole."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc
import pytest

from acestep.audio.files import load_audio
from pipeline.results.reader import REJECTED, RESULTS, read_results
from pipeline.storage.store import open_store
from pipeline.storage.transient_errors import TRANSIENT_KINDS
from tests.cluster.launches import ROOT, SEEDS, Launches, write_catalogue
from tests.disks import mounted

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
TRACKS = 75
DISK_MB = 600
LEAVE_BYTES, PIECE_BYTES = 3 << 20, 32 << 20
READ_ONLY_S = 20.0
PACE_S = 1.5  # of a cover, so that there is work left for the last disturbance on a fast machine
ADVANCE = (6, 18)  # covers between two disturbances
ENDS_S, LAUNCH_S = 120.0, 900.0
MAX_LAUNCHES = 5


@dataclass
class Shaken:
    """Launches on a disk of their own, one of them running, and the sources of their catalogue."""

    launches: Launches
    disk: Path
    sources: list[Path]
    chance: random.Random
    job: subprocess.Popen[bytes] | None = None
    story: list[str] = field(default_factory=list)

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """The launch under way; a new one where there is none."""
        if self.job is None:
            self.job = self.launches.start()
        return self.job

    def audio(self) -> list[Path]:
        return sorted(self.launches.output.glob("audio/*/*.flac"))

    def advance(self) -> None:
        """Let some covers be made."""
        aim = len(self.audio()) + self.chance.randint(*ADVANCE)
        self.launches.until(self.running, lambda: len(self.audio()) >= aim, LAUNCH_S)

    def ends(self, status: int, said: str = "") -> None:
        """The launch ends by itself, in good order and good time."""
        began = time.monotonic()
        assert self.running.wait(ENDS_S) == status, self.launches.said.read_text()[-5000:]
        assert said in self.launches.said.read_text().rpartition("catalogue  ")[2]
        self.job = None
        self.story[-1] += f": status {status} after {time.monotonic() - began:.0f} s, {len(self.audio())} files"

    def stops(self) -> None:
        """It is asked to."""
        self.running.terminate()
        self.ends(128 + signal.SIGTERM)

    def mount(self, *options: str) -> None:
        """Change how the disk is mounted; while a file is being written it cannot become read-only."""
        deadline = time.monotonic() + 30
        while subprocess.run(["mount", *options, str(self.disk)], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def disk_full(shaken: Shaken) -> None:
    size = 0
    with (shaken.disk / "ballast").open("wb") as ballast:
        while (more := min(shutil.disk_usage(shaken.disk).free - LEAVE_BYTES, PIECE_BYTES)) > 0:
            with suppress(OSError):  # the launch has taken the room meanwhile
                os.posix_fallocate(ballast.fileno(), size, more)
                size += more
    shaken.ends(1, "No space left on device; make room there")
    (shaken.disk / "ballast").unlink()


def read_only(shaken: Shaken) -> None:
    shaken.mount("-o", "remount,ro")
    until = time.monotonic() + READ_ONLY_S
    shaken.ends(1, "Read-only file system")
    time.sleep(max(0.0, until - time.monotonic()))
    shaken.mount("-o", "remount,rw")


def _instead(shaken: Shaken, put: Callable[[Path], object]) -> None:
    made = Counter(int(path.parent.name[1:]) % len(shaken.sources) for path in shaken.audio())
    # The longest go first: the one whose tracks are being made.
    source = max(one for one in shaken.sources if made[int(one.stem)] < TRACKS * SEEDS // len(shaken.sources) - 12)
    kept = source.rename(source.with_suffix(".kept"))
    put(source)
    shaken.advance()
    shaken.stops()
    kept.replace(source)


def source_replaced(shaken: Shaken) -> None:
    others = [source for source in shaken.sources if source.exists()]
    _instead(shaken, lambda source: shutil.copy(next(one for one in others if one != source), source))


def source_hangs(shaken: Shaken) -> None:
    _instead(shaken, os.mkfifo)


def audio_deleted(shaken: Shaken) -> None:
    gone, cut = shaken.chance.sample(shaken.audio(), 2)
    gone.unlink()
    os.truncate(cut, 1000)


def part_truncated(shaken: Shaken) -> None:
    shaken.stops()
    part = shaken.chance.choice(sorted(shaken.launches.output.glob("results/*.parquet")))
    os.truncate(part, part.stat().st_size // 2)
    shaken.ends(2, str(part))
    shaken.job = shaken.launches.start("repair=true")


def second_launch(shaken: Shaken) -> None:
    second = subprocess.run(
        shaken.launches.command, cwd=ROOT, env=shaken.launches.environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert second.returncode == 2
    assert f"is in use by process {shaken.running.pid}" in second.stderr


def hang_up(shaken: Shaken) -> None:
    shaken.running.send_signal(signal.SIGHUP)
    shaken.ends(128 + signal.SIGHUP)


def worker_killed(shaken: Shaken) -> None:
    before = len(shaken.launches.generations())
    shaken.launches.until(shaken.running, lambda: len(shaken.launches.generations()) > before)
    os.kill(shaken.launches.generations()[-1].pid, signal.SIGKILL)


DISTURBANCES = (
    *(disk_full, disk_full, read_only, source_replaced, source_hangs, audio_deleted),
    *(part_truncated, second_launch, hang_up, worker_killed),
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", DISK_MB) as folder:
        yield folder


@pytest.mark.parametrize("seed", [1])
def test_what_is_shaken_in_every_way_comes_out_whole(tmp_path: Path, disk: Path, seed: int) -> None:
    manifest = write_catalogue(tmp_path, TRACKS)
    here = ("cluster=local", "cluster.cpus=2", "cluster.gpus=0", "cluster.workers=2", "metrics=off")
    plain = Launches(tmp_path / "plain", manifest, os.environ, *here)
    print(f"\n{TRACKS * SEEDS} items, undisturbed in {plain.run(LAUNCH_S):.0f} s")
    expected = plain.audio()
    shutil.rmtree(plain.output)

    paced = os.environ | {"PACE_S": str(PACE_S)}
    launches = Launches(tmp_path / "shaken", manifest, paced, *here, output=disk / "out")
    chance = random.Random(seed)
    shaken = Shaken(launches, disk, sorted(tmp_path.glob("[0-9].flac")), chance)
    began = time.monotonic()
    for disturb in chance.sample(DISTURBANCES, len(DISTURBANCES)):
        shaken.advance()
        shaken.story.append(f"{time.monotonic() - began:5.0f} s  {disturb.__name__}, {len(shaken.audio())} files")
        disturb(shaken)
    statuses = []
    while not statuses or (statuses[-1] and len(statuses) < MAX_LAUNCHES):
        statuses.append(shaken.running.wait(LAUNCH_S))
        shaken.job = None
    print(*shaken.story, sep="\n")
    print(f"{time.monotonic() - began:5.0f} s  the end, after launches with status {statuses}")
    assert statuses[-1] == 0, launches.said.read_text()[-5000:]
    assert whole_covers(launches.output) == expected


def whole_covers(output: Path) -> dict[str, str]:
    """The SHA-256 of each item's file: each has one final row, which is ok, and all else would be made again."""
    rows = read_results(open_store(str(output)), RESULTS, REJECTED)
    ok = pc.equal(rows["status"], "ok")
    others = Counter(rows.filter(pc.invert(ok))["error_kind"].to_pylist())
    print("rows that are not final:", dict(others))
    assert set(others) <= TRANSIENT_KINDS
    assert others["source_changed"], "no worker met the source that was replaced"
    found, files = {}, set()
    for row in rows.filter(ok).to_pylist():
        assert row["item_id"] not in found, "two final rows"
        content = (output / row["audio_path"]).read_bytes()
        found[row["item_id"]] = hashlib.sha256(content).hexdigest()
        assert (found[row["item_id"]], len(content)) == (row["audio_sha256"], row["audio_bytes"])
        assert load_audio(output / row["audio_path"]).shape[1] == row["frames"]
        files.add(row["audio_path"])
    assert {path.relative_to(output).as_posix() for path in output.glob("audio/*/*")} == files
    left = {path.name for path in output.iterdir()}
    assert not left & {"receipts", "attempts"} or not any((output / "receipts").rglob("*.arrow"))
    assert not [name for name in left if name.endswith(".lease")]
    return found
