"""Find the folders of a checkpoint: the network, the autoencoder and the text encoder."""

from dataclasses import dataclass
from pathlib import Path

from acestep.checkpoints import diffusers_layout
from acestep.errors import FETCH_AGAIN, CheckpointError

MODEL_PREFIX = "acestep-v15-"
AUTOENCODER_FOLDER = "vae"
TEXT_ENCODER_FOLDER = "Qwen3-Embedding-0.6B"
DIFFUSERS_TEXT_ENCODER_FOLDER = "text_encoder"


@dataclass(frozen=True)
class CheckpointFolders:
    """Folders of the three parts of a checkpoint.

    name: name of the model, because folders of a hub cache are named by hash.
    """

    model: Path
    autoencoder: Path
    text_encoder: Path
    name: str


def locate(root: Path, variant: str | None = None) -> CheckpointFolders:
    """Find the parts of a checkpoint.

    Args:
        root: a bundle (folders ``acestep-v15-<variant>``, ``vae``, ``Qwen3-Embedding-0.6B``), one model
            folder whose parent or itself holds the other two, or a pipeline folder in the diffusers layout.
        variant: model of a bundle, such as "turbo"; required only if there are several.

    Raises:
        CheckpointError: a part is missing, or the variant is unknown or ambiguous.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "no such folder"
        remedy = "give a checkpoint folder or a model name"
        raise CheckpointError("unknown_model", what, remedy, where=root)
    model = model_folder(root, variant)
    one = diffusers_layout.is_diffusers(model)
    text_encoder = _beside(model, DIFFUSERS_TEXT_ENCODER_FOLDER if one else TEXT_ENCODER_FOLDER)
    return CheckpointFolders(model, _beside(model, AUTOENCODER_FOLDER), text_encoder, model.absolute().name)


def model_folder(root: Path, variant: str | None = None, called: str = "") -> Path:
    """The folder of the network: ``root``, or the folder of ``variant`` in it.

    Args:
        called: name of the root in messages; default is its path.

    Raises:
        CheckpointError: there is none, or the variant is unknown, ambiguous or not the folder's own.
    """
    called = called or str(root.absolute())
    one = diffusers_layout.is_diffusers(root)
    if one:
        diffusers_layout.check_index(root)
    elif not (root / "config.json").is_file():
        return _variant_folder(root, variant, called)
    if variant is not None and (one or _variant(variant) != _variant(called.rsplit("/", 1)[-1])):
        remedy = f"leave out variant {variant!r}"
        raise CheckpointError("unknown_model", "holds one model", remedy, where=called)
    return root


def _variant(name: str) -> str:
    """Normalize the name of a variant or of its folder."""
    return name.removeprefix(MODEL_PREFIX).replace("_", "-")


def _variant_folder(root: Path, variant: str | None, called: str) -> Path:
    found = {path.name.removeprefix(MODEL_PREFIX): path for path in sorted(root.glob(f"{MODEL_PREFIX}*"))}
    if not found:
        remedy = "give an ACE-Step 1.5 checkpoint"
        reason = f"holds neither config.json nor a folder {MODEL_PREFIX}<variant>"
        raise CheckpointError("unknown_model", reason, remedy, where=called)
    if variant is None:
        if len(found) > 1:
            remedy = "name one with variant=, or give its folder"
            raise CheckpointError(
                "unknown_model", f"holds several models ({', '.join(found)})", remedy, where=called
            )
        return next(iter(found.values()))
    name = _variant(variant)
    if name not in found:
        remedy = f"it holds {', '.join(found)}"
        raise CheckpointError("unknown_model", f"has no variant {variant!r}", remedy, where=called)
    return found[name]


def _beside(model: Path, name: str) -> Path:
    for folder in (model / name, model.parent / name):
        if folder.is_dir():
            return folder
    raise CheckpointError("missing_weights", f"no folder {name} in it or beside it", FETCH_AGAIN, where=model)
