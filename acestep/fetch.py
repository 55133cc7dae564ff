"""Fetch published weights, check them tensor by tensor, and say what is cached."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from acestep.checkpoints import demo, hub
from acestep.checkpoints.hub import LANGUAGE_MODELS, PUBLISHED, SHARED, HubModel, Source
from acestep.checkpoints.safetensors_files import weight_files


@dataclass(frozen=True)
class Fetched:
    """Something whose files are here and fit.

    folders: what lies where; size: bytes of all of them; fingerprint: of a model, as results carry it.
    """

    name: str
    folders: dict[str, Path]
    size: int
    fingerprint: str = ""


@dataclass(frozen=True)
class Known:
    """A name, and how much of it is on this machine.

    state: "built in", "cached", "partly" or "no"; size: bytes.
    """

    name: str
    place: str
    state: str
    size: int


def fetch_model(
    name: str, variant: str | None, source: Source, progress: type[Any] | None, adapter: Path | None = None
) -> Fetched:
    """Fetch a model with its autoencoder and text encoder; an ``adapter`` must fit it.

    Raises:
        CheckpointError: it cannot be fetched, or a file does not fit.
    """
    from acestep.checkpoints.checkpoint import fingerprint, layout_of  # these import torch; ``known`` needs none
    from acestep.checkpoints.verify import verify

    folders = hub.find(name, variant, source, progress)
    verify(folders, adapter)
    parts = {"model": folders.model, "autoencoder": folders.autoencoder, "text encoder": folders.text_encoder}
    modules = layout_of(folders.model).module_folders(folders.model)
    size = _size([*modules, folders.autoencoder, folders.text_encoder])
    return Fetched(name, parts, size, fingerprint(folders))


def fetch_language_model(name: str, source: Source, progress: type[Any] | None) -> Fetched:
    """Fetch a 5 Hz language model.

    Raises:
        CheckpointError: it cannot be fetched, or a file does not fit.
    """
    from acestep.language.language_model import open_language_model

    folder = hub.find_language_model(name, source, progress)
    open_language_model(folder)
    return Fetched(name, {"language model": folder}, _size([folder]))


def fetch_adapter(name: str, source: Source, progress: type[Any] | None) -> Fetched:
    """Fetch a LoRA adapter.

    Raises:
        CheckpointError: it cannot be fetched, or is of an unsupported kind.
    """
    from acestep.checkpoints.lora import open_adapter

    adapter = open_adapter(hub.find_adapter(name, source, progress))
    files = weight_files(adapter.files.folder, adapter.files.stem)
    return Fetched(name, {"adapter": adapter.path}, sum(file.stat().st_size for file in files))


def known() -> Iterator[Known]:
    """Every name, and how much of it is here; asks nobody."""
    for name in demo.VARIANTS:
        yield Known(name, "", "built in", 0)
    shared = {"(autoencoder)": SHARED[0], "(text encoder)": SHARED[1]}
    for name, published in (PUBLISHED | shared | LANGUAGE_MODELS).items():
        size = _cached_size(published)
        state = "cached" if hub.cached(published) else "partly" if size else "no"
        yield Known(name, published.place, state, size)


def _cached_size(published: HubModel) -> int:
    """Bytes of all versions of something published, each file counted once."""
    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=published.repo, repo_type="model")
    found = cache.glob("/".join(filter(None, ("snapshots/*", published.folder, "**/*"))))
    return sum(file.stat().st_size for file in {file.resolve() for file in found} if file.is_file())


def _size(folders: Iterable[Path]) -> int:
    return sum(file.stat().st_size for folder in folders for file in folder.iterdir() if file.is_file())
