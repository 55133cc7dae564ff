"""Declared parameters: dataclass fields with meaning, allowed values and the test that proves them.

Validation, the configuration of jobs, result columns, the OpenAPI document, the Cover page and docs/reference.md
are generated from the declarations.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_type_hints

from acestep.errors import RequestError

_KEY = "parameter"
T = TypeVar("T")


@dataclass(frozen=True)
class Requirement:
    """A condition under which a parameter has an effect.

    holds: predicate of the object with the parameters.
    otherwise: reason for no effect; a format string for that object.
    models: models on which it can hold.
    """

    holds: Callable[[Any], bool]
    otherwise: str
    models: str = "all"


@dataclass(frozen=True)
class Parameter:
    """A declared parameter.

    meaning: one sentence, in Markdown.
    name, kind, default: name, type and default of the dataclass field, set by ``parameters_of``.
    choices, range: allowed values, bounds included; without both, any value of the type.
    unit: unit of a number, such as "dB".
    models: models that support it; by default those of ``needs``.
    needs: conditions without which it has no effect.
    short: format of a value in the name of a setting, such as "s{:.2f}".
    label: display name.
    slider: low, high and step of its control on the Cover page; numbers without it have no control.
    in_item: the parameter is part of an item's id, or cannot change the audio.
    proof: id of the test that fails if the effect is wrong or missing; ``[x]`` is reference vector x.
    """

    meaning: str
    name: str = ""
    kind: Any = None
    default: Any = None
    choices: Sequence[Any] = ()
    range: tuple[float, float] | None = None
    unit: str = ""
    models: str = ""
    needs: tuple[Requirement, ...] = ()
    short: str = ""
    label: str = ""
    slider: tuple[float, float, float] | None = None
    in_item: bool = True
    proof: str = ""

    def field(self, default: T) -> T:
        """Create a dataclass field with this declaration."""
        return dataclasses.field(default=default, metadata={_KEY: self})


def parameters_of(cls: Any) -> dict[str, Parameter]:
    """The declared fields of a dataclass by name, in order."""
    hints = get_type_hints(cls)
    declared = {f.name: (f.default, f.metadata[_KEY]) for f in dataclasses.fields(cls) if _KEY in f.metadata}
    return {
        name: replace(
            p,
            name=name,
            kind=hints[name],
            default=default,
            label=p.label or name.replace("_", " "),
            models=p.models or next((need.models for need in p.needs), "all"),
        )
        for name, (default, p) in declared.items()
    }


def check_value(parameter: Parameter, value: Any) -> None:
    """Check a value against the declaration.

    Raises:
        RequestError: the value is not allowed.
    """
    name = parameter.name
    if parameter.choices and value not in parameter.choices:
        raise RequestError("unknown_value", field=name, value=value, allowed=parameter.choices)
    if parameter.range and value is not None:
        low, high = parameter.range
        if not (math.isfinite(value) and low <= value <= high):
            raise RequestError("out_of_range", field=name, value=value, allowed=f"{low:g}..{high:g}")


def ineffective_notes(
    parameters: Mapping[str, Parameter], values: Any, conditions: Sequence[Requirement]
) -> list[str]:
    """A note for each parameter without effect that is not at its default, in the order of ``conditions``."""
    return [
        f"{name} {getattr(values, name)!r} has no effect: {condition.otherwise.format(values)}"
        for condition in conditions
        if not condition.holds(values)
        for name, parameter in parameters.items()
        if condition in parameter.needs and getattr(values, name) != parameter.default
    ]
