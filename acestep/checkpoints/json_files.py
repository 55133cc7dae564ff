"""Read the JSON files of a checkpoint."""

from pathlib import Path
from typing import Any

from acestep.errors import CheckpointError
from acestep.parameters.values import from_json

MAX_JSON_BYTES = 100_000_000


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing, too large or not a JSON object.
    """
    try:
        # Reading a pipe would block, and a device never ends.
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: is no file")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: is larger than {MAX_JSON_BYTES} bytes; fetch it again")
        content = from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; is the checkpoint folder complete?") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
