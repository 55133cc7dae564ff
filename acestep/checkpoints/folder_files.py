"""Files that belong to a checkpoint folder, as opposed to links to files outside it."""

from pathlib import Path

from acestep.errors import FETCH_AGAIN, CheckpointError


def is_plain_name(name: str) -> bool:
    """Whether a name is a plain file name without path separators."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def shard_path(folder: Path, name: str, index: Path) -> Path:
    """The file of a folder that an index names.

    Raises:
        CheckpointError: the name refers to a file outside the folder.
    """
    if not is_plain_name(name):
        reason = f"names {name!r:.200}, which is no file of its folder"
        raise CheckpointError("damaged_weights", reason, FETCH_AGAIN, where=index)
    file = folder / name
    if file.is_file() and not is_own(file):
        remedy = "give the folder that holds the files"
        raise CheckpointError(
            "damaged_weights", f"is a link to {file.resolve()}, outside of its folder", remedy, where=file
        )
    return file


def is_own(file: Path) -> bool:
    """Whether a file's content is in its folder, or in the blobs of the hub cache that contains the folder."""
    try:
        content = file.resolve(strict=True)
        folder = file.parent.resolve(strict=True)
    except (OSError, RuntimeError):  # a link to itself
        return False
    snapshots = next((place for place in (folder, *folder.parents) if place.name == "snapshots"), None)
    return content.is_relative_to(folder) or (
        snapshots is not None and content.parent == (snapshots.parent / "blobs").resolve()
    )


def replacement_advice(file: Path) -> str:
    """Remedy for a damaged file, as an imperative."""
    if is_own(file):
        # Files of a hub cache are links, so the target must be deleted.
        return f"delete {file.resolve()} and fetch it again"
    return (
        f"{file.name} is a link to a file outside of its folder; put the file itself in its place, fetch it again"
    )
