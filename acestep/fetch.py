"""Download published weights, verify them tensor by tensor, and list the cache."""

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
    """A downloaded and verified model, language model or adapter.

    folders: folder of each part.
    size: total bytes.
    fingerprint: of a model, as in result rows.
    """

    name: str
    folders: dict[str, Path]
    size: int
    fingerprint: str = ""


@dataclass(frozen=True)
class Known:
    """A known name and its state in the local cache.

    state: "built in", "cached", "partly" or "no".
    size: cached bytes.
    """

    name: str
    place: str
    state: str
    size: int


def fetch_model(
    name: str, variant: str | None, source: Source, progress: type[Any] | None, adapter: Path | None = None
) -> Fetched:
    """Download and verify a model with its autoencoder and text encoder, and optionally an ``adapter`` for it.

    Raises:
        CheckpointError: the download failed, or a file does not match.
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
    """Download and verify a 5 Hz language model.

    Raises:
        CheckpointError: the download failed, or a file does not match.
    """
    from acestep.language.language_model import open_language_model

    folder = hub.find_language_model(name, source, progress)
    open_language_model(folder)
    return Fetched(name, {"language model": folder}, _size([folder]))


def fetch_adapter(name: str, source: Source, progress: type[Any] | None) -> Fetched:
    """Download a LoRA adapter.

    Raises:
        CheckpointError: the download failed, or the adapter is of an unsupported kind.
    """
    from acestep.checkpoints.lora import open_adapter

    adapter = open_adapter(hub.find_adapter(name, source, progress))
    files = weight_files(adapter.files.folder, adapter.files.stem)
    return Fetched(name, {"adapter": adapter.path}, sum(file.stat().st_size for file in files))


def known() -> Iterator[Known]:
    """All known names and their local state; needs no network."""
    for name in demo.VARIANTS:
        yield Known(name, "", "built in", 0)
    shared = {"(autoencoder)": SHARED[0], "(text encoder)": SHARED[1]}
    for name, published in (PUBLISHED | shared | LANGUAGE_MODELS).items():
        size = _cached_size(published)
        state = "cached" if hub.cached(published) else "partly" if size else "no"
        yield Known(name, published.place, state, size)


def _cached_size(published: HubModel) -> int:
    """Cached bytes of all versions, each file counted once."""
    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=published.repo, repo_type="model")
    found = cache.glob("/".join(filter(None, ("snapshots/*", published.folder, "**/*"))))
    return sum(file.stat().st_size for file in {file.resolve() for file in found} if file.is_file())


def _size(folders: Iterable[Path]) -> int:
    return sum(file.stat().st_size for folder in folders for file in folder.iterdir() if file.is_file())
