"""Model names to checkpoint folders: the built-in miniature, local folders, and the published weights."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from acestep import demo
from acestep.checkpoint import (
    AUTOENCODER_FOLDER,
    MODEL_PREFIX,
    TEXT_ENCODER_FOLDER,
    CheckpointFolders,
    locate,
    model_folder,
)
from acestep.errors import CheckpointError

BUNDLE = "ACE-Step/Ace-Step1.5"  # turbo, autoencoder, text encoder
FILES = ("*.safetensors", "*.json", "*.pt", "merges.txt")


@dataclass(frozen=True)
class Published:
    """A hub repository and the folder of the model in it ("" for the repository itself)."""

    repo: str
    folder: str = ""


PUBLISHED = {
    "turbo": Published(BUNDLE, f"{MODEL_PREFIX}turbo"),
    **{
        name: Published(f"ACE-Step/{MODEL_PREFIX}{name.replace('_', '-')}")
        for name in (
            "base",
            "sft",
            "turbo_shift1",
            "turbo_shift3",
            "turbo_continuous",
            "xl_base",
            "xl_sft",
            "xl_turbo",
        )
    },
}


def find(model: str, variant: str | None = None) -> CheckpointFolders:
    """The folders of a model, downloaded first where it is a published one that is not cached yet.

    Args:
        model: ``demo`` or ``demo_turbo`` (built in), a key of ``PUBLISHED``, a folder, or a hub id
            ``owner/name``.
        variant: which model of a folder or repository that holds several.

    Raises:
        CheckpointError: nothing of that name exists, or it cannot be downloaded.
    """
    if variant is not None and (model in demo.VARIANTS or model in PUBLISHED):
        raise CheckpointError(f"variant {variant!r}: the model {model!r} is one variant; name the one you want")
    if model in demo.VARIANTS:
        return locate(demo.ensure(), demo.VARIANTS[model])
    if model in PUBLISHED:
        published = PUBLISHED[model]
        return _with_bundle(_download(published.repo, (published.folder,)) / published.folder, model)
    if Path(model).expanduser().exists():
        return locate(Path(model).expanduser(), variant)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not model.startswith("."):
        folders = ("",) if variant is None else ("", f"{MODEL_PREFIX}{variant.replace('_', '-')}")
        name = model if variant is None else f"{model}/{variant}"
        return _with_bundle(model_folder(_download(model, folders), variant), name)
    names = ", ".join((*demo.VARIANTS, *PUBLISHED))
    raise CheckpointError(f"model {model!r}: no such folder, and not one of {names}")


def _with_bundle(model: Path, name: str) -> CheckpointFolders:
    """A model with the autoencoder and text encoder of the main bundle, which all published models share."""
    bundle = _download(BUNDLE, (AUTOENCODER_FOLDER, TEXT_ENCODER_FOLDER))
    return CheckpointFolders(model, bundle / AUTOENCODER_FOLDER, bundle / TEXT_ENCODER_FOLDER, name)


def _download(repo: str, folders: tuple[str, ...]) -> Path:
    patterns = [f"{folder}/{name}" if folder else name for folder in folders for name in FILES]
    try:
        return Path(snapshot_download(repo, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"cannot get {repo} from the hub ({reason}). With a network, check the name and run again; without "
            "one, copy the checkpoint here and give its folder, or use the built-in model demo."
        ) from error
