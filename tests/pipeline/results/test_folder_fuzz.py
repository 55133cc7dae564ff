"""A folder of which any file is harmed in any way: nothing wrong is believed, and all of it comes back."""

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import soundfile
import torch

from acestep.audio.files import encode_audio
from acestep.errors import RestyleError
from pipeline.catalogue.probe import ProbeCache
from pipeline.evaluation.judging import measured_rows
from pipeline.results.collector import ResultCollector
from pipeline.results.finished_items import finished_items
from pipeline.results.job_file_reader import read_record
from pipeline.results.journal import read_receipts, unwritten_receipts, write_receipt
from pipeline.results.missing_audio import altered_covers, covers_without_audio, drop_rows
from pipeline.results.reader import current_rows
from pipeline.results.repair import DamageError, check_parts, find_cover
from pipeline.results.writer import as_table
from pipeline.service.generation_request import GenerationRequest
from pipeline.service.generation_store import GenerationStore
from pipeline.storage.parquet_parts import encode_parquet
from pipeline.storage.store import Store, open_store
from tests.conftest import tone

Row = dict[str, Any]
TRACKS = [f"{k:020x}" for k in range(4)]
IDS = [(TRACKS[track], f"{16 * track + number + 1:020x}") for track in range(4) for number in range(3)]


def cover(track: int, number: int) -> tuple[Row, bytes]:
    """A cover's row and its file."""
    wave = torch.from_numpy(tone(0.1, pitch_hz=200 + 40 * track + 7 * number).T.copy())
    content, item = encode_audio(wave, "flac"), f"{16 * track + number + 1:020x}"
    return {
        "item_id": item,
        "track_id": TRACKS[track],
        "status": "ok",
        "caption": f"style {item}",
        "seed": number,
        "setting_id": "s",
        "unmeasured": ["all: silent"],
        "audio_path": f"audio/{TRACKS[track]}/{item}.flac",
        "audio_sha256": hashlib.sha256(content).hexdigest(),
        "audio_bytes": len(content),
        "finished_at": datetime(2026, 1, 2, tzinfo=UTC),
    }, content


class Folder:
    """An output folder as a killed job leaves it: three parts, refused rows, receipts, probes and orders."""

    def __init__(self, place: Path):
        self.place, self.store = place, open_store(str(place / "whole"))
        made = [cover(track, number) for track in range(4) for number in range(3)]
        self.rows = {row["item_id"]: row for row, _ in made}
        self.audio = {row["audio_path"]: content for row, content in made}
        more = [("f", "failed", "unreadable_audio"), ("r", "rejected", "empty_caption")]
        for item, status, kind in more:
            self.rows[item] = {"item_id": item, "track_id": item, "status": status, "error_kind": kind}
        for path, content in self.audio.items():
            self.store.write(path, content)
        rows = list(self.rows.values())
        for part in (rows[:4], rows[4:9], rows[12:]):
            collector = ResultCollector(self.store)
            collector.add(as_table(part))
            collector.flush()
        for row in rows[9:12]:
            write_receipt(self.store, row)
        self.sources = [str(place / f"{k}.wav") for k in range(3)]
        for k, source in enumerate(self.sources):
            soundfile.write(source, tone(0.1, pitch_hz=300 + k), 48_000)
        ProbeCache(self.store, "1").of(self.sources[:2])
        self.probes = ProbeCache(self.store, "2").of(self.sources)
        self.store.write("job.json", b'{"catalogue": "songs", "parameters": {}, "labels": {}, "job": {}}')
        self.store.write("comparison/covers.parquet", encode_parquet(pa.table({"item_id": ["a"]})))
        self.store.write(f"results/part-x-00000.parquet.{'0' * 32}.tmp", b"PAR1 unfinished")
        shelf = GenerationStore(self.store)
        order = GenerationRequest("o", {"track_id": TRACKS[0], "items": [{"item_id": "i"}]}, ("i",))
        shelf.opened(order)
        shelf.closed(GenerationRequest("done", order.track, ("i",)), {})
        self.files = sorted(path for path in (place / "whole").rglob("*") if path.is_file())

    def copy(self) -> Store:
        shutil.rmtree(self.place / "harmed", ignore_errors=True)
        shutil.copytree(self.place / "whole", self.place / "harmed")
        return open_store(str(self.place / "harmed"))


def flip(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return bytes([*content[:place], content[place] ^ 1 << rng.randrange(8), *content[place + 1 :]])


HARMS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": flip,
    "cut": lambda content, rng: content[: rng.randrange(len(content))],
    "empty": lambda content, rng: b"",
    "zeros": lambda content, rng: bytes(len(content)),
    "garbage": lambda content, rng: rng.randbytes(len(content)),
}


def harm(folder: Folder, store: Store, rng: random.Random) -> tuple[str, str]:
    """Harm one file, or swap two; how, and which."""
    paths = [Path(store.root) / path.relative_to(folder.place / "whole") for path in folder.files]
    path, other = rng.sample(paths, 2)
    kind = rng.choice([*HARMS, "swap", "delete"])
    if kind == "delete":
        path.unlink()
    elif kind == "swap":
        first, second = path.read_bytes(), other.read_bytes()
        path.write_bytes(second)
        other.write_bytes(first)
    else:
        path.write_bytes(HARMS[kind](path.read_bytes(), rng))
    return kind, str(path)


def believed(store: Store) -> Iterator[Callable[[], list[Row]]]:
    """Everybody who reads rows."""
    yield lambda: current_rows(store).to_pylist()
    yield lambda: measured_rows(store, store.root).to_pylist()
    yield lambda: [r for rows, _ in read_receipts(store, unwritten_receipts(store), 5) for r in rows.to_pylist()]
    yield lambda: list(
        filter(None, map(partial(GenerationStore.row, GenerationStore(store)), *zip(*IDS, strict=True)))
    )


def launch(folder: Folder, store: Store, repair: bool = False) -> int:
    """What a job does with the folder, less the music; how many rows it made."""
    check_parts(store, repair)
    read_record(store)
    assert ProbeCache(store, "3").of(folder.sources) == folder.probes
    collector = ResultCollector(store)
    collector.recover_receipts()
    lost = covers_without_audio(store)
    done = finished_items(store) - lost
    drop_rows(store, lost)
    assert done <= set(folder.rows)
    missing = [row for item, row in folder.rows.items() if item not in done]
    for row in missing:
        found = find_cover(store, row["track_id"], row["item_id"]) if repair else None
        if row["status"] == "ok" and not found:
            store.write(row["audio_path"], folder.audio[row["audio_path"]])
        collector.add(as_table([row]))
    collector.flush()
    return len(missing)


def with_remedies(folder: Folder, store: Store) -> None:
    """Launch, and do what the messages say until it starts."""
    for _ in range(3):
        faults = []
        try:
            launch(folder, store)
        except DamageError as error:
            faults = error.faults
        for fault in faults:
            if not fault.is_damaged:
                assert "move it out of the folder" in str(fault)
                Path(store.path(fault.name)).rename(folder.place / "moved out")
        if any("repair=true" in str(fault) for fault in faults):
            launch(folder, store, repair=True)


@pytest.mark.parametrize("rounds", [12, pytest.param(400, marks=pytest.mark.slow)])
def test_whichever_file_is_harmed_all_comes_back_and_nothing_wrong_is_believed(
    tmp_path: Path, rounds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, seen = Folder(tmp_path), set()
    for seed in range(rounds):
        store = folder.copy()
        what = (seed, *harm(folder, store, random.Random(seed)))
        seen.add((what[1], Path(what[2]).relative_to(store.root).parts[0]))
        for read in believed(store):
            try:
                rows = read()
            except RestyleError:
                continue
            for row in rows:
                whole = folder.rows[row["item_id"]]
                assert {name: row[name] for name in whole if name in row} == {
                    name: whole[name] for name in whole if name in row
                }, what
        with_remedies(folder, store)
        for name in altered_covers(store):  # which jobs.validate names, with the remedy to delete them
            store.delete(name)
        launch(folder, store)
        rows = {row["item_id"]: row for row in current_rows(store).to_pylist()}
        assert set(rows) == set(folder.rows), what
        for item, row in folder.rows.items():
            assert {name: rows[item][name] for name in row} == row, what
        for path, content in folder.audio.items():
            assert store.read(path) == content, what
        assert launch(folder, store) == 0, what
        assert not altered_covers(store), what
    with capsys.disabled():
        print(f"\n{rounds} rounds, {len(seen)} kinds of harm and place")
