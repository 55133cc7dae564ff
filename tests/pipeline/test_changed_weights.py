"""Weights that change after a launch looked at them make no cover under the name of the old ones."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from acestep import demo
from acestep.checkpoint import fingerprint
from acestep.errors import RestyleError
from acestep.hub import find
from acestep.stamps import stamp
from pipeline.actors import RestyleWorker
from pipeline.attempts import mark_start
from pipeline.storage import open_store
from pipeline.worker_spec import WorkerSpec

VARIANT = "turbo"


def test_a_worker_refuses_weights_that_were_replaced_since_the_plan(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(demo.ensure(), checkpoint)
    output = open_store(str(tmp_path / "out"))
    mark_start(output, "launch")
    folders = find(str(checkpoint), VARIANT)
    planned = WorkerSpec(
        output=output,
        launch="launch",
        node="another",
        model=str(checkpoint),
        variant=VARIANT,
        fingerprint=fingerprint(folders),
        language_model=None,
        device="cpu",
        dtype="float32",
        audio_format="flac",
        most_seconds=60.0,
        threads=None,
        max_attempts=3,
        stamp=stamp(folders),
    )
    # Equal stamps are believed, and the files are not read again.
    RestyleWorker(replace(planned, fingerprint="f00d"))

    weights = max(folders.model.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    before = weights.stat()
    os.utime(weights)
    assert stamp(folders) != planned.stamp
    RestyleWorker(planned)

    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_size == before.st_size
    with pytest.raises(RestyleError, match=planned.fingerprint):
        RestyleWorker(planned)
