"""The files of a model, its adapter and its language model, and the facts that identify them."""

from dataclasses import dataclass
from pathlib import Path

from acestep.checkpoints import hub
from acestep.checkpoints.checkpoint import fingerprint, folder_fingerprint
from acestep.checkpoints.file_stamps import file_stamp
from acestep.checkpoints.folders import CheckpointFolders
from acestep.checkpoints.verify import verify
from acestep.language.language_model import open_language_model
from pipeline.planning.items import ModelFacts


@dataclass(frozen=True)
class ModelFiles:
    """Paths of a model's files; None for an adapter or a language model that is not used."""

    folders: CheckpointFolders
    adapter: Path | None
    language_model: Path | None

    def verify(self) -> bool:
        """Check all files without loading weights; returns whether the model is a turbo model.

        Raises:
            RestyleError: a file is missing or damaged.
        """
        if self.language_model is not None:
            open_language_model(self.language_model)
        return verify(self.folders, self.adapter).is_turbo

    def stamp(self) -> str:
        """See ``acestep.checkpoints.file_stamps``."""
        return file_stamp(self.folders, self.adapter, self.language_model)

    def fingerprint(self, adapter_scale: float) -> str:
        """Fingerprint of the network with its adapter."""
        return fingerprint(self.folders, self.adapter, adapter_scale)

    def language_model_fingerprint(self) -> str | None:
        """Fingerprint of the language model, or None."""
        return folder_fingerprint(self.language_model) if self.language_model else None

    def facts(self, name: str, is_turbo: bool, adapter_scale: float, compiled: bool) -> ModelFacts:
        """The model's facts, with an empty dtype, which depends on the workers' devices."""
        stamp = self.stamp()  # before the files are read
        return ModelFacts(
            name=name,
            fingerprint=self.fingerprint(adapter_scale),
            is_turbo=is_turbo,
            dtype="",
            language_model=self.language_model_fingerprint(),
            compiled=compiled,
            stamp=stamp,
        )


def find_model_files(
    model: str, variant: str | None, adapter: str | None, language_model: str | None = None
) -> ModelFiles:
    """Find the files of named models, and download them if needed.

    Raises:
        RestyleError: see ``acestep.checkpoints.hub``.
    """
    return ModelFiles(
        folders=hub.find(model, variant),
        adapter=hub.find_adapter(adapter) if adapter else None,
        language_model=hub.find_language_model(language_model) if language_model else None,
    )
