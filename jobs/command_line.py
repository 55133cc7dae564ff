"""What a command line says beyond what Hydra makes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

import conf
from acestep.errors import RequestError, RestyleError
from acestep.parameters.suggestions import nearest
from jobs.arguments import FIXED, is_text

MODELS = "model=turbo takes the published weights, model=demo a small built-in model, made to show the product"
NESTED = "an argument, or a file of presets, has brackets nested too deep to be read"
INTERPOLATION = (
    "${name} is the value of another key, ${oc.env:NAME} of an environment variable; \\${ is a dollar and a brace"
)


def given(group: str) -> tuple[str, ...]:
    """Names of the keys of ``group`` that the running job's command line sets, one by one or as a mapping."""
    names: list[str] = []
    words = cast(list[str], OmegaConf.to_container(HydraConfig.get().overrides.task))  # as they were written
    for override in OverridesParser.create().parse_overrides(words):
        key, value = override.key_or_group, override.value()
        if key == group and isinstance(value, Mapping):
            names += map(str, value)
        elif key.startswith(f"{group}."):
            names.append(key.removeprefix(f"{group}."))
    return tuple(names)


def complete(config: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain values.

    Raises:
        RestyleError: a required value is missing, an interpolation leads nowhere, or a text is empty whose default
            is not.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise RequestError("invalid_value", reason, INTERPOLATION, where=error.full_key) from error
    if missing:
        example = " ".join(f"{name}=..." for name in missing)
        models = f"; {MODELS}" if "model" in missing else ""
        raise RestyleError("missing_value", f"{', '.join(missing)} not given", f"add {example}{models}")
    _refuse_empty(OmegaConf.get_type(config), values)
    return values


def _refuse_empty(kind: Any, values: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse a text that is empty where its default is not, such as ``output=$FOLDER`` where FOLDER is not set.

    Raises:
        RequestError: naming the key.
    """
    if not is_dataclass(kind):
        return
    kinds = get_type_hints(kind)
    for field in fields(kind):
        value = values.get(field.name)
        if isinstance(value, Mapping):
            _refuse_empty(kinds[field.name], value, f"{prefix}{field.name}.")
        elif is_text(kinds[field.name]) and field.default != "" and value is not None and not value.strip():
            remedy = "is a shell variable not set? Give a value, or leave the key out"
            raise RequestError("missing_value", f"{prefix}{field.name} is empty", remedy)


def hint(job: str, arguments: Sequence[str]) -> str:
    """For arguments that Hydra refused: the valid key nearest to an unknown one, or "" where that is not why."""
    overrides = [word for word in arguments if "=" in word and not word.startswith("-") and word not in FIXED]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(Path(conf.__file__).parent), version_base="1.3"):
            compose(job, overrides=overrides)
    except (HydraException, ValueError) as error:  # a group set to null is a ValueError
        return nearest_key(error) or "no preset is preset=none" * ("preset=null" in overrides)
    except RecursionError:
        return f"error: {NESTED}"
    return ""


def nearest_key(error: BaseException) -> str:
    """ "did you mean ...?" for an error that an unknown key caused, else ""."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and is_dataclass(cause.object_type):
            known = _keys(cause.object_type, str(cause.full_key or cause.key).rpartition(".")[0])
            close = " or ".join(known[name] for name in nearest(str(cause.key), known))
            names = ", ".join(field.name for field in fields(cause.object_type))
            return f"did you mean {close}?" if close else f"known keys: {names}"
        cause = cause.__cause__ or cause.__context__
    return ""


def _keys(kind: Any, prefix: str) -> dict[str, str]:
    """Full keys by name of the fields of a dataclass and of those in it, the nearer ones first."""
    full = {field.name: f"{prefix}.{field.name}".lstrip(".") for field in fields(kind)}
    for name, nested in get_type_hints(kind).items():
        if is_dataclass(nested):
            full = _keys(nested, full[name]) | full
    return full
