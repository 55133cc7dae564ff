"""Requests made up from the service's own OpenAPI document: none is answered with a fault of the service."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pipeline.service.request_body import NAMES
from tests.pipeline.service.conftest import Served

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_is_the_services_fault(served: Served, mode: GenerationMode) -> None:
    api = schemathesis.openapi.from_url(f"{served.address}/openapi.json")
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) == 7
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.method != "post":
            continue  # any text may stand in an address, and no body is read

        @settings(
            max_examples=20,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def calls(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS, timeout=20)

        calls()


def test_the_document_names_what_is_taken(served: Served) -> None:
    document = httpx.get(f"{served.address}/openapi.json").json()
    body = document["paths"]["/v1/audio/generations"]["post"]["requestBody"]["content"]
    for kind in ("application/json", "multipart/form-data"):
        properties = body[kind]["schema"]["properties"]
        assert properties.keys() <= set(NAMES)
        assert {"src_audio", "caption", "audio_cover_strength", "seed", "batch_size", "async"} <= properties.keys()
    strength = body["application/json"]["schema"]["properties"]["audio_cover_strength"]
    assert (strength["minimum"], strength["maximum"], strength["type"]) == (0, 1, "number")
    assert "follows the source throughout" in strength["description"]
    reply = httpx.post(served.generations, json=body["application/json"]["example"] | {"inference_steps": 1})
    assert reply.status_code == 200
