"""The built-in model: a small ACE-Step 1.5 model included in the package.

``FOLDER`` has the published layout and goes through the same loader and checks as published weights.
``python -m jobs.train_demo`` trains the model; ``stage=publish`` copies it here and pins its digest.
"""

import hashlib
from pathlib import Path

from acestep.checkpoints.folders import CheckpointFolders, locate
from acestep.errors import CheckpointError

VARIANTS = {"demo": "base", "demo_turbo": "turbo"}
ABOUT = (
    "The built-in model is a small one of our own: it knows twelve styles of synthesised instruments, without "
    "voices, and is made to show the product, not to replace model=turbo, which fetches the published weights."
)
FOLDER = Path(__file__).parent / "demo_weights"
SUMS = "SHA256SUMS"  # checksums of all other files, in the format of `sha256sum`
# SHA-256 of SUMS; written by stage=publish.
DIGEST = "38e34d52fe069ee17407cccff7e784265ef43a3361f9eed4de9ffec78473c359"
REMEDY = "install the package again, restore the folder from the repository, or use another model"


def folders(model: str) -> CheckpointFolders:
    """The parts of ``demo`` or ``demo_turbo``.

    Raises:
        CheckpointError: a file is missing or differs from this version's.
    """
    check(FOLDER, DIGEST)
    return locate(FOLDER, VARIANTS[model])


def check(folder: Path, digest: str) -> None:
    """Verify every file against ``SHA256SUMS``, and that list against ``digest``.

    Raises:
        CheckpointError: a file is missing, cannot be read, or differs.
    """
    sums = folder / SUMS
    if _sha256(sums) != digest:
        reason = "is not the list of this version's built-in model"
        raise CheckpointError("damaged_weights", reason, REMEDY, where=sums)
    for line in sums.read_text().splitlines():
        expected, name = line.split("  ", 1)
        if _sha256(folder / name) != expected:
            remedy = f"the built-in model of this version has another; {REMEDY}"
            raise CheckpointError("damaged_weights", "truncated or changed", remedy, where=folder / name)


def sums_of(folder: Path) -> str:
    """The content of ``SHA256SUMS`` for all files in ``folder``."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return "".join(f"{_sha256(folder / name)}  {name}\n" for name in names if name != SUMS)


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        remedy = f"the built-in model is not in this copy; {REMEDY}"
        raise CheckpointError("missing_weights", "no such file", remedy, where=file) from error
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise CheckpointError("damaged_weights", reason, REMEDY, where=file) from error
