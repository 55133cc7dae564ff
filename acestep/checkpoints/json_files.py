"""Read the JSON files of a checkpoint."""

from pathlib import Path
from typing import Any

from acestep.errors import FETCH_AGAIN, CheckpointError
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
            raise CheckpointError("missing_weights", "is no file", where=path)
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(
                "damaged_weights", f"is larger than {MAX_JSON_BYTES} bytes", FETCH_AGAIN, where=path
            )
        content = from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        remedy = "is the checkpoint folder complete?"
        raise CheckpointError("missing_weights", "no such file", remedy, where=path) from error
    except (OSError, ValueError) as error:
        raise CheckpointError("damaged_weights", f"not readable as JSON ({error})", where=path) from error
    if not isinstance(content, dict):
        reason = f"expected a JSON object, found {type(content).__name__}"
        raise CheckpointError("damaged_weights", reason, where=path)
    return content
