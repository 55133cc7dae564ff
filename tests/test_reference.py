"""Declarations of parameters and columns, and the page that is generated from them."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from acestep.errors import RequestError
from acestep.generation.params import SUPPORTED, SUPPORTED_CONFIG, GenerationParams
from acestep.parameters.declaration import Parameter
from acestep.sampling.setting import PARAMETERS, SEED, CoverSetting
from docs.reference import COMMAND, page
from jobs.schema import CoverConfig
from pipeline.results.columns import COLUMNS, SCHEMA
from pipeline.service.openapi import request_schema
from pipeline.service.page.text import FIELDS
from tests.parity.replay import all_cases

ROOT = Path(__file__).parents[1]
DECLARED = {**SUPPORTED, **SUPPORTED_CONFIG}


def test_the_page_is_generated_from_the_declarations() -> None:
    assert (ROOT / "docs" / "reference.md").read_text() == page(), COMMAND


@pytest.mark.parametrize("parameter", DECLARED.values(), ids=DECLARED)
def test_every_parameter_has_a_meaning_and_a_test(parameter: Parameter) -> None:
    assert parameter.meaning.endswith(".")
    file, _, test = parameter.proof.partition("::")
    if parameter.proof.startswith("["):
        assert parameter.proof[1:-1] in {case.name for case in all_cases(ROOT / "tests" / "golden")}
    else:
        assert re.search(rf"^def {test}\b", (ROOT / file).read_text(), re.MULTILINE)


def test_every_parameter_of_a_setting_is_declared_and_stated_everywhere() -> None:
    names = [field.name for field in fields(CoverSetting)]
    assert [*PARAMETERS] == names
    assert {*names, "seed"} <= {field.name for field in fields(GenerationParams)}
    assert CoverConfig().seed == SEED.default
    for name in names:
        assert request_schema()["properties"][name]["description"] == PARAMETERS[name].meaning
        assert getattr(CoverConfig(), name) == PARAMETERS[name].default
        assert SCHEMA.field(name).metadata[b"meaning"].endswith(PARAMETERS[name].meaning.encode())
    assert {name for name, parameter in PARAMETERS.items() if parameter.slider} < {*FIELDS}


def test_every_column_has_a_meaning() -> None:
    for column in COLUMNS:
        assert column.meaning, column.name
        assert SCHEMA.field(column.name).metadata[b"meaning"] == column.meaning.encode()


@pytest.mark.parametrize("name", [name for name, parameter in PARAMETERS.items() if parameter.range])
def test_a_setting_out_of_range_cannot_be_made(name: str) -> None:
    low, high = PARAMETERS[name].range or (0, 0)
    for value in (low - 1, high + 1, float("nan")):
        with pytest.raises(RequestError, match=name):
            CoverSetting(**{name: value})


def test_a_request_can_be_changed_after_it_is_made() -> None:
    params = GenerationParams("cover", shift=3.0)
    params.shift = 2.0
    assert (params.task_type, params.shift, params.audio_cover_strength) == ("cover", 2.0, 1.0)
