"""Make a trained checkpoint the package's built-in model."""

import hashlib
import re
import shutil
from pathlib import Path

from acestep.checkpoints import demo
from acestep.checkpoints.folders import locate
from acestep.checkpoints.verify import verify
from acestep.errors import RequestError
from pipeline.demo_model.export import size

MAX_BYTES = 16_000_000
PINNED = re.compile(r'^DIGEST = ".*"', re.MULTILINE)


def publish(checkpoints: Path, folder: Path = demo.FOLDER, module: Path = Path(demo.__file__)) -> str:
    """Copy an exported checkpoint to ``folder`` and pin its digest in the source file ``module``; returns it.

    Raises:
        CheckpointError: base or turbo is missing or does not fit.
        RequestError: there is no such folder, or its files are larger than a package may be.
    """
    if not checkpoints.is_dir():
        raise RequestError("missing_folder", f"{checkpoints} is not there", "run stage=export first")
    for variant in demo.VARIANTS.values():
        verify(locate(checkpoints, variant))
    if size(checkpoints) > MAX_BYTES:
        remedy = f"at most {MAX_BYTES} can be published"
        raise RequestError("invalid_value", f"{checkpoints} has {size(checkpoints)} bytes", remedy)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoints, folder)
    (folder / demo.SUMS).write_text(demo.sums_of(folder))
    digest = hashlib.sha256((folder / demo.SUMS).read_bytes()).hexdigest()
    module.write_text(PINNED.sub(f'DIGEST = "{digest}"', module.read_text()))
    return digest
