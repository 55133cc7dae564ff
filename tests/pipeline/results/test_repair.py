"""Repair: rows come back by audio that proves whole, and covers that do not match their rows are found."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from acestep.audio.files import encode_audio
from pipeline.results.columns import SCHEMA
from pipeline.results.missing_audio import altered_covers
from pipeline.results.reader import RESULTS, read_results
from pipeline.results.repair import FOUND, DamageError, check_parts, decode_verified_flac, find_cover
from pipeline.results.writer import ResultWriter, as_table
from pipeline.storage.parquet_parts import part_names
from pipeline.storage.store import open_store
from pipeline.workflows.restyle import run
from pipeline.workflows.specs import ValidateSpec
from pipeline.workflows.validate import validate
from tests.conftest import tone
from tests.pipeline.results.damage import (
    Told,
    cut,
    flip,
    job_on,
)


def test_a_cover_is_taken_by_its_file_only_where_that_proves_whole(tmp_path: Path) -> None:
    import torch

    store, wave = open_store(str(tmp_path)), torch.from_numpy(tone(1.0).T.copy())
    whole = encode_audio(wave, "flac")
    store.write("audio/t/i.flac", whole)
    found = find_cover(store, "t", "i")
    assert found is not None
    assert found[0]["frames"] == found[1].shape[1] == 48_000
    assert (found[1] - wave).abs().max() < 1e-4
    rng = random.Random(0)
    for _ in range(50):
        place = rng.randrange(42, len(whole))  # before, the header says how long it is, not what is heard
        assert (
            decode_verified_flac(
                bytes([*whole[:place], whole[place] ^ 1 << rng.randrange(8), *whole[place + 1 :]])
            )
            is None
        )
    for length in (0, 10, 42, 500, len(whole) // 2, len(whole) - 1):
        assert decode_verified_flac(whole[:length]) is None
    assert decode_verified_flac(encode_audio(wave, "wav")) is None
    assert decode_verified_flac(whole[:26] + bytes(16) + whole[42:]) is None
    assert find_cover(store, "t", "none") is None


def test_rows_of_a_damaged_part_come_back_with_repair(tmp_path: Path, local_pool: None) -> None:
    """By their audio where that proves whole, and made again where it does not; the samples are the same."""
    job, store, reporter = job_on(tmp_path), open_store(f"{tmp_path}/out"), Told()
    with (tmp_path / "m.csv").open("a") as manifest:
        manifest.write("b,a.wav,rock\n")
    run(job, reporter)
    before = {row["track_id"]: row for row in read_results(store).to_pylist()}
    files = {track: tmp_path / "out" / row["audio_path"] for track, row in before.items()}
    contents = {track: file.read_bytes() for track, file in files.items()}
    parts = [tmp_path / "out" / name for name in part_names(store, RESULTS)]  # two where the machine is slow
    for part in parts:
        flip(part)
    cut(files["b"])
    with pytest.raises(DamageError) as caught:
        run(job, reporter)
    assert all(str(part) in str(caught.value) for part in parts)
    summary = run(replace(job, repair=True), reporter)
    assert (summary.ok, summary.new) == (2, 2)
    assert all(any(str(part) in message for message in reporter.warnings) for part in parts)
    after = {row["track_id"]: row for row in read_results(store).to_pylist()}
    assert {track: file.read_bytes() for track, file in files.items()} == contents
    assert {track for track, row in after.items() if row["denoise_s"] is None} == {"a"}
    assert {track for track, row in after.items() if FOUND in row["notes"]} == {"a"}
    passing = {"read_s", "condition_s", "denoise_s", "decode_s", "measure_s", "write_s", "finished_at", "notes"}
    for name in set(SCHEMA.names) - passing:
        for track in before:
            value = before[track][name]
            same = pytest.approx(value, abs=0.02) if isinstance(value, float) else value
            assert after[track][name] == same, name
    check_parts(store)


def test_validation_in_full_finds_covers_that_are_not_what_their_rows_say(tmp_path: Path) -> None:
    job, store = job_on(tmp_path), open_store(f"{tmp_path}/out")
    names = [f"audio/t/{item}.flac" for item in "abc"]
    rows = [
        {"item_id": name, "track_id": "t", "status": "ok", "audio_path": name, "audio_bytes": 5} for name in names
    ]
    digest = hashlib.sha256(b"whole").hexdigest()
    writer = ResultWriter(store, RESULTS)
    writer.add(as_table([row | {"audio_sha256": digest} for row in rows]))
    writer.flush()
    for name in names:
        store.write(name, b"whole")
    assert altered_covers(store) == []
    store.write(names[1], b"whola")
    store.delete(names[2])  # of which the plan tells
    assert altered_covers(store) == [names[1]]
    found = validate(job, ValidateSpec(decode="full"), Told())
    bad = {check.name: check for check in found.checks if check.bad}
    assert bad["covers"].bad == 1
    assert names[1] in bad["covers"].said
