"""Launches of a job that are disturbed, what they generated, and what they left behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import soundfile

from acestep.audio.files import load_audio
from pipeline.results.reader import read_results
from pipeline.storage.store import open_store
from tests import miniature
from tests.conftest import tone

ROOT = Path(__file__).parents[2]
SEEDS = 4


@dataclass(frozen=True)
class Generation:
    """One time that an item was generated: by whom, and when it was begun and done with (never: infinity)."""

    item_id: str
    pid: int
    begun: float
    left: float = float("inf")


@dataclass(frozen=True)
class Kill:
    """What was killed and when: its workers (a driver's are those of its launch), and the rows written by then."""

    what: str
    at: float
    pids: frozenset[int]
    rows: int


class Launches:
    """Launches of one job on one folder, one after the other."""

    def __init__(
        self,
        folder: Path,
        manifest: str,
        environment: Mapping[str, str],
        *overrides: str,
        output: Path | None = None,
    ):
        self.output = output or folder / "out"
        self.log = folder / "generations.tsv"
        self.said = folder / "launches.log"
        folder.mkdir(parents=True)
        self.log.touch()
        self.environment = {**environment, "GENERATIONS": str(self.log), "OMP_WAIT_POLICY": "PASSIVE"}
        self.command = [sys.executable, "-m", "tests.cluster.driver", f"manifest={manifest}",
                        f"output={self.output}", f"model={miniature.TURBO}", "cover.inference_steps=1",
                        f"grid.seed={list(range(SEEDS))}".replace(" ", ""), "tracking.enabled=false",
                        *overrides]  # fmt: skip

    def start(self, *overrides: str) -> subprocess.Popen[bytes]:
        """A launch, in a session of its own."""
        command = [*self.command, *overrides]
        with self.said.open("ab") as said:
            return subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=said, stderr=said, start_new_session=True
            )

    def run(self, limit_s: float = 300.0) -> float:
        """A launch that nobody disturbs; the seconds it took."""
        started = time.monotonic()
        self.finish(self.start(), limit_s)
        return time.monotonic() - started

    def finish(self, job: subprocess.Popen[bytes], limit_s: float = 300.0) -> None:
        """Wait for a launch, which must end well."""
        try:
            status = job.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            raise
        assert status == 0, self.said.read_text()[-5000:]

    def until(self, job: subprocess.Popen[bytes], reached: Callable[[], bool], limit_s: float = 180.0) -> None:
        """Wait for something that happens while a launch runs."""
        deadline = time.monotonic() + limit_s
        while not reached():
            assert job.poll() is None, f"it ended too soon: {self.said.read_text()[-5000:]}"
            assert time.monotonic() < deadline, self.said.read_text()[-5000:]
            time.sleep(0.02)

    def generations(self) -> list[Generation]:
        """What the workers of all launches have generated, in the order in which they began."""
        found: dict[tuple[str, int], list[Generation]] = defaultdict(list)
        for line in self.log.read_text().splitlines():
            event, item_id, pid, at = line.split("\t")
            of_this = found[item_id, int(pid)]
            if event == "begun":
                of_this.append(Generation(item_id, int(pid), float(at)))
            elif event == "left" and of_this:  # without a beginning: it failed, or was given up
                of_this[-1] = Generation(item_id, int(pid), of_this[-1].begun, float(at))
        return sorted((one for ones in found.values() for one in ones), key=lambda one: one.begun)

    def done(self) -> int:
        """How many items are done with, repeated ones counted once."""
        return len({one.item_id for one in self.generations() if one.left < float("inf")})

    def busy(self) -> set[int]:
        """Workers that are generating right now, or died at it."""
        return {one.pid for one in self.generations() if one.left == float("inf")}

    def kill(self, what: str, kill: Callable[[], object], pids: set[int]) -> Kill:
        """Do it, and note what it can have cost."""
        at = time.time()
        kill()
        return Kill(what, at, frozenset(pids), len(self.kept()))

    def kept(self) -> list[str]:
        """Items of all final rows, an item as often as it has one."""
        return [str(name) for name in read_results(open_store(str(self.output)))["item_id"].to_pylist()]

    def audio(self) -> dict[str, str]:
        """The SHA-256 of each item's file, which is decoded to its end and agrees with its row."""
        rows = read_results(open_store(str(self.output))).to_pylist()
        assert len({row["item_id"] for row in rows}) == len(rows), "an item has more than one row"
        hashes = {}
        for row in rows:
            assert row["status"] == "ok", row
            content = (self.output / row["audio_path"]).read_bytes()
            hashes[row["item_id"]] = hashlib.sha256(content).hexdigest()
            assert hashes[row["item_id"]] == row["audio_sha256"]
            assert load_audio(self.output / row["audio_path"]).shape[1] == row["frames"]
        files = {path.relative_to(self.output).as_posix() for path in self.output.glob("audio/*/*")}
        assert files == {row["audio_path"] for row in rows}
        assert not list(self.output.glob("attempts/*"))
        return hashes


def write_catalogue(folder: Path, tracks: int) -> str:
    """A manifest of short tracks, each with its own caption; its path."""
    rows = []
    for k in range(4):
        soundfile.write(folder / f"{k}.flac", tone(5.0 + k / 8, pitch_hz=220.0 + 30 * k), 48_000)
    for k in range(tracks):
        rows.append({"track_id": f"t{k:03d}", "source": f"{k % 4}.flac", "caption": f"style {k}"})
    (folder / "tracks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "tracks.jsonl")


def explain(generations: list[Generation], kills: list[Kill]) -> Counter[str]:
    """How many generations each kill caused to be repeated: only those that were in the hands of what it killed.

    Raises:
        AssertionError: something was generated again that was done with, or that nothing killed.
    """
    costs: Counter[str] = Counter()
    last = {one.item_id: one for one in generations}
    for one in generations:
        if one is not last[one.item_id]:
            why = [kill.what for kill in kills if one.pid in kill.pids and one.left > kill.at]
            assert why, f"{one} was generated again, and no kill explains it: {kills}"
            costs[why[0]] += 1
    return costs


def orphans(session: int) -> list[str]:
    """Processes of a session that is led by a launch."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                found.append((folder / "cmdline").read_text().replace("\0", " ")[:120])
    return found
