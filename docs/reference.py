"""Prints docs/reference.md: every parameter, request field, result column and measure, from their declarations."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from acestep.generation.params import SUPPORTED, SUPPORTED_CONFIG
from acestep.parameters.declaration import Parameter
from acestep.sampling.setting import PARAMETERS, SEED
from pipeline.metrics.registry import MEASURES
from pipeline.results.columns import COLUMNS
from pipeline.service.request_body import DEFAULTS

COMMAND = "python -m docs.reference > docs/reference.md"
VECTORS = "tests/parity/test_golden.py::test_reference"


def page() -> str:
    """The whole page as Markdown."""
    cover = {**PARAMETERS, "seed": SEED}
    request = {name: p for name, p in {**SUPPORTED, **SUPPORTED_CONFIG}.items() if name not in cover}
    return f"""# Reference

Generated from the declarations in the code: `{COMMAND}`.

## Parameters of a cover

Set with `cover.<name>=`, swept with `grid.<name>=[...]`, given in a manifest column, over HTTP or, with upstream's
defaults, as a field of `GenerationParams`. *In runs*: how a setting's name shows a swept value.

{_table(("parameter", "default", "in Python", *_HEAD, "in runs", "proven by"), map(_of_cover, cover.values()))}

## Other fields of a request

Fields of `GenerationParams` and `GenerationConfig`, and of the body of an HTTP request.

{_table(("field", "in Python", "over HTTP", *_HEAD, "proven by"), map(_of_request, request.values()))}

## Columns of result rows

`results/*.parquet` and `rejected/*.parquet` hold the same text as metadata of their Arrow fields:
`pyarrow.parquet.read_schema(file).field(name).metadata`.

{_table(("column", "type", "unit", "meaning"), ((f"`{c.name}`", str(c.type), c.unit, c.meaning) for c in COLUMNS))}

## Measures

*Better*: whether more or less of it makes a better cover; empty where it only describes.
*Extra*: the optional group that computes it.

{_table(("measure", "unit", "better", "extra", "meaning"), map(_of_measure, MEASURES))}
"""


_HEAD = ("allowed", "unit", "models", "no effect where", "meaning")


def _of_cover(parameter: Parameter) -> Sequence[str]:
    name, python = parameter.name, SUPPORTED[parameter.name].default
    return (
        f"`{name}`",
        _value(parameter.default),
        "same" if python == parameter.default else _value(python),
        *_common(parameter),
        f"`{parameter.short}`" if parameter.short else "",
        _proof(parameter),
    )


def _of_request(parameter: Parameter) -> Sequence[str]:
    served = DEFAULTS.get(parameter.name, parameter.default)
    http = (
        "not taken"
        if parameter.name == "audio_codes"
        else "same"
        if served == parameter.default
        else _value(served)
    )
    return f"`{parameter.name}`", _value(parameter.default), http, *_common(parameter), _proof(parameter)


def _of_measure(measure: Any) -> Sequence[str]:
    return f"`{measure.name}`", measure.unit, measure.better, measure.extra, measure.meaning


def _common(parameter: Parameter) -> Sequence[str]:
    reasons = "; ".join(re.sub(r"\{0\.(\w+)!r\}", "another", need.otherwise) for need in parameter.needs)
    return _allowed(parameter), parameter.unit, parameter.models, reasons, parameter.meaning


def _allowed(parameter: Parameter) -> str:
    if parameter.choices:
        return ", ".join(f"`{choice}`" for choice in parameter.choices)
    return "" if parameter.range is None else " .. ".join(f"{end:.12g}" for end in parameter.range)


def _value(value: Any) -> str:
    if value is None or value == "":
        return "none" if value is None else "empty"
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else f"`{value}`"
    )


def _proof(parameter: Parameter) -> str:
    return f"`{VECTORS}{parameter.proof}`" if parameter.proof.startswith("[") else f"`{parameter.proof}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(page(), end="")
