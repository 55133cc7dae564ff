"""Weights that change after a launch looked at them make no cover under the name of the old ones."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from acestep.checkpoints.checkpoint import fingerprint
from acestep.checkpoints.file_stamps import file_stamp
from acestep.checkpoints.hub import find
from acestep.errors import RestyleError
from pipeline.storage.store import open_store
from pipeline.worker.restyle_worker import RestyleWorker
from tests import miniature
from tests.pipeline.service.conftest import facts, worker_at

VARIANT = "turbo"


def test_a_worker_refuses_weights_that_were_replaced_since_the_plan(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(miniature.FOLDER, checkpoint)
    output = open_store(str(tmp_path / "out"))
    folders = find(str(checkpoint), VARIANT)
    model = replace(
        facts(), name=str(checkpoint), fingerprint=fingerprint(folders), is_turbo=True, stamp=file_stamp(folders)
    )
    planned = replace(worker_at(output), node="another", model=model, variant=VARIANT)
    # Equal stamps are believed, and the files are not read again.
    RestyleWorker(replace(planned, model=replace(model, fingerprint="f00d")))

    weights = max(folders.model.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    before = weights.stat()
    os.utime(weights)
    assert file_stamp(folders) != model.stamp
    RestyleWorker(planned)

    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_size == before.st_size
    with pytest.raises(RestyleError, match=model.fingerprint):
        RestyleWorker(planned)
