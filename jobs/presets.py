"""Read the presets of ``conf/preset`` and of folders that a user adds to Hydra's search path."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from acestep.errors import RequestError
from jobs.config_keys import nearest_key
from jobs.schema import CoverConfig, PresetConfig
from pipeline.catalogue.presets import Preset, check_preset


def search_path() -> list[Path]:
    """Folders of Hydra's search path, in order of precedence."""
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


def read_presets(folders: Iterable[Path]) -> list[Preset]:
    """Read all presets with a genre pair; for equal names, the first folder takes precedence.

    Raises:
        RequestError: a file is not readable, or has an unknown key or an invalid value.
    """
    files: dict[str, Path] = {}
    for folder in folders:
        for file in sorted((folder / "preset").glob("*.yaml")):
            files.setdefault(file.stem, file)
    presets = [read_preset(file) for file in files.values()]
    return [preset for preset in presets if preset.source_genre]


def read_preset(file: Path) -> Preset:
    """Read one file: text and ranges under ``preset``, values under ``cover``.

    Raises:
        RequestError: the file is not readable, or has an unknown key or an invalid value.
    """
    try:
        raw = cast(DictConfig, OmegaConf.load(file))
        for key, value in raw.items():
            if key not in ("preset", "cover"):
                raise RequestError("unknown_value", f"key {key!r} is not one of preset, cover", where=file)
            if not isinstance(value, DictConfig | None):
                remedy = "expected a mapping of names to values"
                raise RequestError("invalid_value", f"is {value!r}", remedy, key, where=file)
        words = OmegaConf.merge(OmegaConf.structured(PresetConfig), raw.get("preset") or {})
        values = raw.get("cover") or OmegaConf.create({})
        OmegaConf.merge(OmegaConf.structured(CoverConfig), values)
    except (OmegaConfBaseException, YAMLError, OSError, RecursionError) as error:
        hint = nearest_key(error)
        reason = str(error).splitlines()[0]
        raise RequestError("invalid_value", reason, hint or "", where=file) from error
    written = cast(dict[str, Any], OmegaConf.to_container(words))
    preset = Preset(
        **written | {"name": words.name or file.stem},
        cover=cast(dict[str, Any], OmegaConf.to_container(values)),
    )
    return check_preset(preset) if preset.source_genre else preset
