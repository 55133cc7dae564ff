"""The help of a job: its docstring, then each key with its default, the allowed values and its meaning."""

import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING

import conf
from jobs.schema import CHOICES, JOBS, MEANING, RANGE

MAX_WIDTH = 110
KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
OPTIONS = """Options: --cfg job prints the configuration and ends; --config-dir FOLDER and --config-name NAME read
one of your own; --version prints the version; --hydra-help lists the options of Hydra."""


def describe(job: str, about: str) -> str:
    """Format the help of a job.

    Args:
        about: docstring of the job's module.
    """
    width = min(MAX_WIDTH, shutil.get_terminal_size().columns)
    lines = [about.strip(), "", "Keys, given as key=value:", ""]
    for group in groups(job):
        lines += _entry(
            f"{group}=", f"one of {', '.join(options(group))}", f"settings of {group}.* by name", width
        )
    for key, kind, declared in keys_of(JOBS[job]):
        if key.startswith("grid.") and kind is Any:
            continue
        lines += _entry(f"{key}={_default(declared)}", _allowed(kind, declared), declared.metadata[MEANING], width)
    if any(key.startswith("grid.") for key, *_ in keys_of(JOBS[job])):
        lines += _entry(
            "grid.NAME=[...]", "a list", "values to sweep of cover.NAME; the cross product is run", width
        )
    return "\n".join([*lines, "", OPTIONS])


def keys_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Field[Any]]]:
    """Yield each key of a configuration (nested ones as ``group.key``) with its type and declaration."""
    types = get_type_hints(config)
    for declared in fields(config):
        kind = types[declared.name]
        if is_dataclass(kind):
            yield from keys_of(kind, f"{prefix}{declared.name}.")
        else:
            yield f"{prefix}{declared.name}", kind, declared


def groups(job: str) -> list[str]:
    """The configuration groups of a job: those with a folder in ``conf``."""
    return [f.name for f in fields(JOBS[job]) if (_CONF / f.name).is_dir()]


def options(group: str) -> list[str]:
    """The names in a group."""
    return sorted(file.stem for file in (_CONF / group).glob("*.yaml"))


def values_of(job: str, key: str) -> Sequence[Any]:
    """The declared choices of a key."""
    found = next((declared for name, _, declared in keys_of(JOBS[job]) if name == key), None)
    if found is None:
        return ()
    return ("true", "false") if found.type is bool else found.metadata.get(CHOICES, ())


_CONF = Path(conf.__file__).parent


def _entry(key: str, allowed: str, meaning: str, width: int) -> list[str]:
    text = meaning.replace("`", "").replace("None", "null")
    first = f"  {key}  ({allowed})" if allowed else f"  {key}"
    indent = " " * 6
    lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return [first, *lines]


def _default(declared: Field[Any]) -> str:
    value = declared.default if declared.default_factory is NO_DEFAULT else declared.default_factory()
    if value == MISSING:
        return "..."
    return value if isinstance(value, str) else json.dumps(value)


def _allowed(kind: Any, declared: Field[Any]) -> str:
    if choices := declared.metadata.get(CHOICES):
        return f"one of {', '.join(map(str, choices))}"
    if bounds := declared.metadata.get(RANGE):
        return f"{bounds[0]:g}..{bounds[1]:g}"
    plain = next((one for one in get_args(kind) if one in KINDS), kind)
    return KINDS.get(plain) or ("list" if get_origin(kind) is list else "")
