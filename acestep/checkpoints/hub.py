"""Resolve model names to folders: the built-in model, local folders, published weights on the Hugging Face hub.

Cached files are used without a request to the hub; only missing files are downloaded.
"""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from acestep.checkpoints import demo
from acestep.checkpoints.diffusers_layout import is_diffusers, modules
from acestep.checkpoints.folders import (
    AUTOENCODER_FOLDER,
    MODEL_PREFIX,
    TEXT_ENCODER_FOLDER,
    CheckpointFolders,
    locate,
    model_folder,
)
from acestep.checkpoints.lora_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, DIFFUSERS_WEIGHTS, LOKR_FILE, SUFFIX
from acestep.checkpoints.safetensors_files import weights_are_in
from acestep.errors import FETCH_AGAIN, CheckpointError

BUNDLE = "ACE-Step/Ace-Step1.5"  # turbo, autoencoder, text encoder, a language model
LANGUAGE_MODEL_PREFIX = "acestep-5Hz-lm-"
FILES = ("*.safetensors", "*.json", "silence_latent.pt", "merges.txt")
ADAPTER_FILES = (ADAPTER_CONFIG, f"{ADAPTER_WEIGHTS}{SUFFIX}", f"{DIFFUSERS_WEIGHTS}{SUFFIX}", LOKR_FILE)
OUTLINE_FILES = ("config.json", "*/config.json", "model_index.json")
NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT)
HUB_ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+")

# Where to get published files: the cache, else the hub; the cache only; the hub, for the latest version.
Source = Literal["anywhere", "cache", "hub"]


def _whole_model(folder: Path) -> bool:
    if not is_diffusers(folder):
        return (folder / "config.json").is_file() and weights_are_in(folder)
    parts = [folder / name for name in modules(folder)]
    networks = [part for part in parts if (part / "config.json").is_file()]
    return all(part.is_dir() for part in parts) and all(map(weights_are_in, networks))


def _whole_adapter(folder: Path) -> bool:
    config, weights, diffusers, lokr = ((folder / name).is_file() for name in ADAPTER_FILES)
    return (config and weights) or diffusers or lokr


def _whole_outline(folder: Path) -> bool:
    return is_diffusers(folder) or any(folder.glob("config.json")) or any(folder.glob("*/config.json"))


@dataclass(frozen=True)
class HubModel:
    """A folder ("" for the root) of a hub repository, and the files to download.

    whole: whether a local folder is complete; the hub's library cannot always determine it.
    """

    repo: str
    folder: str = ""
    files: tuple[str, ...] = FILES
    whole: Callable[[Path], bool] = _whole_model

    @property
    def place(self) -> str:
        return f"{self.repo}/{self.folder}".rstrip("/")


_SEPARATE = (
    "base sft turbo_shift1 turbo_shift3 turbo_continuous xl_base xl_sft xl_turbo xl_turbo_diffusers".split()
)
PUBLISHED = {
    "turbo": HubModel(BUNDLE, f"{MODEL_PREFIX}turbo"),
    **{name: HubModel(f"ACE-Step/{MODEL_PREFIX}{name.replace('_', '-')}") for name in _SEPARATE},
}
LANGUAGE_MODELS = {
    "lm_0.6b": HubModel(f"ACE-Step/{LANGUAGE_MODEL_PREFIX}0.6B"),
    "lm_1.7b": HubModel(BUNDLE, f"{LANGUAGE_MODEL_PREFIX}1.7B"),
    "lm_4b": HubModel(f"ACE-Step/{LANGUAGE_MODEL_PREFIX}4B"),
}
SHARED = (HubModel(BUNDLE, AUTOENCODER_FOLDER), HubModel(BUNDLE, TEXT_ENCODER_FOLDER))


def find(
    model: str, variant: str | None = None, source: Source = "anywhere", progress: type[Any] | None = None
) -> CheckpointFolders:
    """Resolve a model, and download it if necessary.

    Args:
        model: ``demo`` or ``demo_turbo`` (built in), a key of ``PUBLISHED``, a folder, or a hub id ``owner/name``.
        variant: model of a folder or repository that holds several.
        progress: tqdm class for the download; default is the hub's.

    Raises:
        CheckpointError: there is no such model, or the download failed.
    """
    variant = variant or None
    names = ", ".join((*demo.VARIANTS, *PUBLISHED))
    if not model:
        remedy = f"give one of {names}, a folder or a hub id owner/name"
        raise CheckpointError("unknown_model", "is empty", remedy, "model")
    if variant is not None and (model in demo.VARIANTS or model in PUBLISHED):
        reason = f"does not go with {model!r}, which is one variant"
        raise CheckpointError("unknown_model", reason, "name the one you want", "variant", variant)
    if model in demo.VARIANTS:
        return demo.folders(model)
    if model not in PUBLISHED and Path(model).expanduser().exists():
        return locate(Path(model).expanduser(), variant)
    if model not in PUBLISHED and not HUB_ID.fullmatch(model):
        raise CheckpointError("unknown_model", f"is no folder and not one of {names}", field="model", value=model)
    if model not in PUBLISHED:
        return _find_in_repository(model, variant, source, progress)
    fetch_arguments = f"model={model}"
    folder = _get(PUBLISHED[model], fetch_arguments, source, progress)
    if is_diffusers(folder):
        return replace(locate(folder), name=model)
    autoencoder, text_encoder = (_get(part, fetch_arguments, source, progress) for part in SHARED)
    return CheckpointFolders(model_folder(folder), autoencoder, text_encoder, model)


def _find_in_repository(
    repo: str, variant: str | None, source: Source, progress: type[Any] | None
) -> CheckpointFolders:
    """Resolve a model in any repository; its configuration files are downloaded first to determine the content."""
    fetch_arguments = f"model={repo}" + (f" variant={variant}" if variant else "")
    outline = _get(HubModel(repo, files=OUTLINE_FILES, whole=_whole_outline), fetch_arguments, source, progress)
    chosen = model_folder(outline, variant, called=repo)
    if is_diffusers(outline):
        return replace(locate(_get(HubModel(repo), fetch_arguments, source, progress)), name=repo)
    folder, name = ("", repo) if chosen == outline else (chosen.name, chosen.name)
    own = [part.folder for part in SHARED if (outline / part.folder).is_dir()]
    parts = (HubModel(repo, part.folder) if part.folder in own else part for part in SHARED)
    model, autoencoder, text_encoder = (
        _get(part, fetch_arguments, source, progress) for part in (HubModel(repo, folder), *parts)
    )
    return CheckpointFolders(model, autoencoder, text_encoder, name)


def find_language_model(name: str, source: Source = "anywhere", progress: type[Any] | None = None) -> Path:
    """Resolve a 5 Hz language model, and download it if necessary.

    Args:
        name: a key of ``LANGUAGE_MODELS``, a folder, or a hub id ``owner/name``.

    Raises:
        CheckpointError: there is no such model, or the download failed.
    """
    names = ", ".join(LANGUAGE_MODELS)
    if not name:
        remedy = f"give one of {names}, a folder or a hub id owner/name"
        raise CheckpointError("unknown_model", "is empty", remedy, "language_model")
    if name not in LANGUAGE_MODELS and Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if name not in LANGUAGE_MODELS and Path(name).expanduser().exists():
        raise CheckpointError(
            "unknown_model", "is a file", "give the folder of a language model", "language_model", name
        )
    if name not in LANGUAGE_MODELS and not HUB_ID.fullmatch(name):
        reason = f"is no folder and not one of {names}"
        raise CheckpointError("unknown_model", reason, field="language_model", value=name)
    return _get(LANGUAGE_MODELS.get(name) or HubModel(name), f"language_model={name}", source, progress)


def find_adapter(name: str, source: Source = "anywhere", progress: type[Any] | None = None) -> Path:
    """Resolve a LoRA adapter given by path or hub id, and download it if necessary.

    Raises:
        CheckpointError: it is neither a path nor a hub id, or the download failed.
    """
    if name and Path(name).expanduser().exists():
        return Path(name).expanduser()
    if not HUB_ID.fullmatch(name) or name.endswith(SUFFIX):
        remedy = "give a LoRA file or folder, or a hub id owner/name"
        raise CheckpointError("missing_weights", "no such file or folder", remedy, where=f"adapter {name!r}")
    published = HubModel(name, files=ADAPTER_FILES, whole=_whole_adapter)
    return _get(published, f"adapter={name}", source, progress)


@contextmanager
def naming_the_command(folders: CheckpointFolders) -> Iterator[None]:
    """Add the fetch command to errors about the files of a model from the hub.

    Raises:
        CheckpointError: replaces the one raised inside.
    """
    try:
        yield
    except CheckpointError as error:
        fetched = Path(constants.HF_HUB_CACHE).expanduser().resolve() in folders.model.parents
        named = folders.name in PUBLISHED or HUB_ID.fullmatch(folders.name)
        if error.kind in ("missing_weights", "damaged_weights") and fetched and named:
            error.remedy = f"{error.remedy or FETCH_AGAIN} with `python -m jobs.fetch model={folders.name}`"
        raise


def cached(published: HubModel) -> Path | None:
    """The cached folder of a published model, None if it is incomplete."""
    try:
        folder = _snapshot(published, local=True, progress=None)
        return folder if published.whole(folder) else None
    except (LocalEntryNotFoundError, HFValidationError, CheckpointError):
        return None


def _get(published: HubModel, fetch_arguments: str, source: Source, progress: type[Any] | None) -> Path:
    """Get the folder of a published model; ``fetch_arguments`` is the argument of ``jobs.fetch`` for messages."""
    if source != "hub" and (folder := cached(published)):
        return folder
    if source == "cache":
        remedy = f"fetch it with `python -m jobs.fetch {fetch_arguments}`"
        raise CheckpointError("not_cached", remedy=remedy, where=published.place)
    try:
        return _snapshot(published, local=False, progress=progress)
    except (HTTPError, HFValidationError, OSError, RuntimeError) as error:  # RuntimeError: Xet downloader
        raise CheckpointError("not_fetched", _why_not(published.repo, error), where=published.place) from error


def _why_not(repo: str, error: Exception) -> str:
    """Reason and remedy of a failed download."""
    unreachable = isinstance(error, LocalEntryNotFoundError)  # no fallback in the cache
    cause = error.__cause__ if unreachable and error.__cause__ else error
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    elsewhere = "copy it here and give its folder, or use the built-in model demo"
    if isinstance(cause, GatedRepoError):
        return f"its owner asks for permission; accept the terms at {constants.ENDPOINT}/{repo} and {log_in}"
    if status in (401, 403):
        return f"the hub has no such repository, or it is private; check the name, or {log_in}"
    if isinstance(cause, RepositoryNotFoundError):
        return "the hub has no such repository; check the name"
    if status is not None:
        return f"the hub failed ({reason}); try later, what is here is kept"
    if isinstance(cause, HFValidationError):
        return f"not a hub id ({reason}); give owner/name"
    if isinstance(cause, OfflineModeIsEnabled):
        return f"not completely cached, and HF_HUB_OFFLINE forbids to fetch it; unset it, {elsewhere}"
    if unreachable:
        return f"not completely cached, and {constants.ENDPOINT} cannot be reached; check the network, {elsewhere}"
    if isinstance(cause, OSError) and cause.errno in NO_PLACE:
        return f"the cache of the hub cannot be written ({reason}); set HF_HOME to a folder that can be written"
    return f"the download broke off ({reason}); run again, what is here is kept"


def _snapshot(published: HubModel, local: bool, progress: type[Any] | None) -> Path:
    patterns = [f"{published.folder}/{name}" if published.folder else name for name in published.files]
    snapshot = snapshot_download(
        published.repo, allow_patterns=patterns, local_files_only=local, tqdm_class=progress
    )
    folder = Path(snapshot) / published.folder
    if not folder.is_dir():
        if local:
            raise LocalEntryNotFoundError(f"{folder} is not cached")
        what = f"no folder {published.folder}" if published.folder else f"none of {', '.join(published.files)}"
        raise CheckpointError("not_fetched", f"has {what}", "check the name and the variant", where=published.repo)
    return folder
