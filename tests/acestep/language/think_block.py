"""Think blocks as upstream writes them, to be parsed by the tests."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from acestep.language.understanding import END_THINK, THINK


def cot_text(metadata: Mapping[str, Any]) -> str:
    """Metadata as a think block: YAML with sorted keys; "4/4" is written 4, and digits are numbers."""
    values = {name: value for name, value in metadata.items() if value is not None}
    if "timesignature" in values:
        values["timesignature"] = re.sub(r"/\s*\d+\s*\Z", "", str(values["timesignature"])).strip()
    for name in ("bpm", "duration", "timesignature"):
        if name in values:
            values[name] = as_number(values[name])
    lines = yaml.safe_dump(values, allow_unicode=True, sort_keys=True).strip() if values else ""
    return f"{THINK}\n{lines}\n{END_THINK}"


def as_number(value: Any) -> Any:
    try:
        return int(value)
    except (TypeError, ValueError):
        return value
