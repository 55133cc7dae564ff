"""Requests made up from the service's own OpenAPI document: none is answered with a fault of the service."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pipeline.service.body import NAMES
from tests.pipeline.service.conftest import Served

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def api(served: Served) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{served.address}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_is_the_services_fault(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS, timeout=20)


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
