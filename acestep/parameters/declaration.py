"""Declared parameters: dataclass fields that carry their meaning, allowed values and proof.

Validation, the configuration of jobs, result columns, the OpenAPI document, the Cover page and docs/reference.md
are made from the declarations.
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
class Condition:
    """What must hold for a parameter to have an effect.

    holds: of the object that has the parameters. otherwise: why there is no effect; a format of that object.
    """

    holds: Callable[[Any], bool]
    otherwise: str


@dataclass(frozen=True)
class Parameter:
    """A declared parameter.

    meaning: one sentence, in Markdown.
    name, kind, default: of the dataclass field; ``parameters_of`` fills them in.
    choices, range: the allowed values, bounds included; neither means any value of the kind.
    unit: of a number, such as "dB". models: those that honour it.
    needs: conditions without which it has no effect.
    short: format of a value in the name of a setting, such as "s{:.2f}". label: its name in words.
    slider: low, high and step of its control on the Cover page, which has no control for a number without one.
    in_item: the id of a catalogue's item covers it, or it cannot change the audio.
    proof: id of the test that fails where it has another effect or none; ``[x]`` is reference vector x.
    """

    meaning: str
    name: str = ""
    kind: Any = None
    default: Any = None
    choices: Sequence[Any] = ()
    range: tuple[float, float] | None = None
    unit: str = ""
    models: str = "all"
    needs: tuple[Condition, ...] = ()
    short: str = ""
    label: str = ""
    slider: tuple[float, float, float] | None = None
    in_item: bool = True
    proof: str = ""

    def field(self, default: T) -> T:
        """A dataclass field with this declaration."""
        return dataclasses.field(default=default, metadata={_KEY: self})


def parameters_of(cls: Any) -> dict[str, Parameter]:
    """The declared fields of a dataclass by name, in their order."""
    hints = get_type_hints(cls)
    found = {f.name: (f.default, f.metadata[_KEY]) for f in dataclasses.fields(cls) if _KEY in f.metadata}
    return {
        name: replace(p, name=name, kind=hints[name], default=default, label=p.label or name.replace("_", " "))
        for name, (default, p) in found.items()
    }


def check_value(parameter: Parameter, value: Any) -> None:
    """Refuse a value that is not allowed.

    Raises:
        RequestError: naming the parameter, its value and what is allowed.
    """
    name = parameter.name
    if parameter.choices and value not in parameter.choices:
        raise RequestError(f"{name} {value!r} is unknown; use one of {', '.join(map(str, parameter.choices))}")
    if parameter.range and value is not None:
        low, high = parameter.range
        if not (math.isfinite(value) and low <= value <= high):
            raise RequestError(f"{name} {value:g} is out of range; allowed: {low:g}..{high:g}")


def ineffective_notes(
    parameters: Mapping[str, Parameter], values: Any, conditions: Sequence[Condition]
) -> list[str]:
    """A note for each parameter that is not at its default and has no effect, in the order of ``conditions``."""
    return [
        f"{name} {getattr(values, name)!r} has no effect: {condition.otherwise.format(values)}"
        for condition in conditions
        if not condition.holds(values)
        for name, parameter in parameters.items()
        if condition in parameter.needs and getattr(values, name) != parameter.default
    ]
