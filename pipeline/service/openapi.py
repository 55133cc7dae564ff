"""OpenAPI descriptions: every parameter with its type, default, range and meaning."""

from types import UnionType
from typing import Any, get_args, get_origin

from acestep.generation.params import SUPPORTED, SUPPORTED_CONFIG
from acestep.parameters.declaration import Parameter
from pipeline.service.request_body import ACCEPTED, DEFAULTS, REPLIES

EXAMPLE = {
    "task_type": "cover",
    "src_audio": "country_song.wav",
    "caption": "heavy metal with distorted guitars, double bass drums",
    "audio_cover_strength": 0.5,
    "guidance_scale": 9.0,
    "inference_steps": 28,
}
REQUIRED = ("src_audio", "caption")
_TYPES: dict[Any, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    tuple: "array",
}
_REPLY = {
    "async": {"type": "boolean", "default": False, "description": "Answer at once with an id to ask for."},
    "response_format": {
        "type": "string",
        "enum": list(REPLIES),
        "description": "audio (one file) or json (rows with links); left out, the Accept header decides.",
    },
}


def request_schema() -> dict[str, Any]:
    """JSON schema of a request; other parameters are rejected."""
    declared = {**SUPPORTED, **SUPPORTED_CONFIG}
    properties = {name: _property(parameter) for name, parameter in declared.items() if name in ACCEPTED} | _REPLY
    return {"type": "object", "properties": properties, "required": [*REQUIRED], "additionalProperties": False}


def request_body() -> dict[str, Any]:
    """The body of ``POST /v1/audio/generations``, as JSON and as a form."""
    schema = request_schema()
    upload = {"type": "string", "format": "binary"}
    form = schema | {"properties": schema["properties"] | dict.fromkeys(("src_audio", "reference_audio"), upload)}
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": schema,
                "example": EXAMPLE,
            },
            "multipart/form-data": {"schema": form},
        },
    }


PROBLEM = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["status", "kind", "message", "remedy", "field", "value", "allowed"],
            "properties": {
                "status": {"type": "integer"},
                "kind": {"type": "string", "description": "one word, for programs"},
                "message": {"type": "string"},
                "remedy": {"type": "string"},
                "field": {"type": ["string", "null"], "description": "the parameter that is wrong"},
                "value": {"type": ["string", "null"], "description": "its value, cut where it is long"},
                "allowed": {"type": ["string", "null"], "description": "what it may be"},
            },
        }
    },
}
COVER = {
    "type": "object",
    "required": ["item_id", "seed", "status", "step", "steps"],
    "properties": {
        "item_id": {"type": "string"},
        "seed": {"type": "integer"},
        "status": {"type": "string", "enum": ["queued", "running", "done", "failed", "cancelled", "gone"]},
        "step": {"type": "integer"},
        "steps": {"type": "integer"},
        "audio_url": {"type": ["string", "null"]},
        "row": {
            "type": ["object", "null"],
            "description": "the result row: requested and effective settings, measures",
        },
        "error": {"type": ["object", "null"]},
    },
}
GENERATION = {
    "type": "object",
    "required": ["id", "status", "progress", "url", "covers", "notes"],
    "properties": {
        "id": {"type": "string"},
        "status": {"type": "string", "enum": ["queued", "running", "done", "failed", "cancelled"]},
        "progress": {"type": "number", "minimum": 0, "maximum": 1},
        "waiting_before": {"type": "integer", "description": "covers whose turn comes first"},
        "url": {"type": "string"},
        "covers": {"type": "array", "items": COVER},
        "notes": {
            "type": "array",
            "items": {"type": "string"},
            "description": "what of the request has no effect, or another effect than its name says",
        },
    },
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documented error responses of these statuses."""
    words = {
        400: "the body cannot be read",
        401: "no key, or a wrong one",
        403: "a web page of another origin asks",
        404: "there is no such generation, or no such source",
        405: "not a method of this address",
        408: "the body did not come in time",
        409: "the generation was cancelled",
        410: "the cover was removed to make room; the same request makes it again",
        413: "too large, or too long",
        415: "a kind of content, or of audio, that is not taken",
        421: "the service does not answer under this name",
        422: "a value is unknown, out of range or not allowed",
        429: "too many covers wait, or too many wrong keys came; Retry-After says when to come again",
        503: "no model is ready, or one was lost; or too much is under way",
        507: "the service has no room for the upload, or for the covers",
    }
    return {
        status: {"description": words[status], "content": {"application/json": {"schema": PROBLEM}}}
        for status in statuses
    }


def replies(schema: dict[str, Any], *statuses: int, status: int = 200, words: str = "") -> dict[int | str, Any]:
    """Documented responses: JSON of ``schema``, and errors."""
    return {
        status: {"description": words or "ok", "content": {"application/json": {"schema": schema}}},
        **problems(*statuses),
    }


def _property(parameter: Parameter) -> dict[str, Any]:
    """JSON schema of a parameter of a request."""
    kinds = get_args(parameter.kind) if isinstance(parameter.kind, UnionType) else (parameter.kind,)
    types = ["null" if kind is type(None) else _TYPES[get_origin(kind) or kind] for kind in kinds]
    schema: dict[str, Any] = {"type": types[0] if len(types) == 1 else types, "description": parameter.meaning}
    for kind in kinds:
        if get_origin(kind) in (list, tuple):
            schema["items"] = {"type": _TYPES.get(get_args(kind)[0], "object")}
    if parameter.name not in REQUIRED:
        schema["default"] = DEFAULTS.get(parameter.name, parameter.default)
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    if parameter.range:
        schema["minimum"], schema["maximum"] = parameter.range
    return schema
