"""Command-line handling beyond Hydra: explicit keys, missing and empty values, hints for unknown keys."""

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
from jobs.argument_syntax import FIXED, is_text

MODELS = "model=turbo takes the published weights, model=demo a small built-in model, made to show the product"
NESTED = "an argument, or a file of presets, has brackets nested too deep to be read"
INTERPOLATION = (
    "${name} is the value of another key, ${oc.env:NAME} of an environment variable; \\${ is a dollar and a brace"
)


def given(group: str) -> tuple[str, ...]:
    """Names of the keys of ``group`` set on the running job's command line, singly or as a mapping."""
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
    """Resolve a composed configuration to plain values.

    Raises:
        RestyleError: a required value is missing, an interpolation fails, or a text is empty but its default is
        not.
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
    """Refuse an empty text whose default is not empty, such as ``output=$FOLDER`` with FOLDER unset.

    Raises:
        RequestError: a text is empty.
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
    """A hint for arguments that Hydra refused, such as the most similar valid key; "" if there is none."""
    overrides = [word for word in arguments if "=" in word and not word.startswith("-") and word not in FIXED]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(Path(conf.__file__).parent), version_base="1.3"):
            compose(job, overrides=overrides)
    except (HydraException, ValueError) as error:  # ValueError: a group set to null
        return nearest_key(error) or "no preset is preset=none" * ("preset=null" in overrides)
    except RecursionError:
        return f"error: {NESTED}"
    return ""


def nearest_key(error: BaseException) -> str:
    """ "did you mean ...?" for an error caused by an unknown key, else ""."""
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
    """Full keys of a dataclass and its nested dataclasses by field name; outer fields take precedence."""
    full = {field.name: f"{prefix}.{field.name}".lstrip(".") for field in fields(kind)}
    for name, nested in get_type_hints(kind).items():
        if is_dataclass(nested):
            full = _keys(nested, full[name]) | full
    return full
