"""OpenAPI descriptions: every parameter with its type, default, range and meaning."""

import re
from dataclasses import fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from acestep.audio.files import FORMATS
from acestep.generation.params import GenerationConfig, GenerationParams
from acestep.generation.request import MAX_BATCH
from acestep.sampling.setting import CHOICES, RANGES, CoverSetting
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
_KINDS: dict[Any, str] = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
_MEANINGS = {
    "src_audio": "The source: a path in a folder that this service reads, an address, or a file of a form.",
    "reference_audio": "A track whose timbre to take; given like src_audio.",
    "caption": "The style to go to: genre, instruments, mood, production.",
    "lyrics": "What is sung; empty means [Instrumental].",
    "batch_size": "How many covers: seeds count up from seed, or are drawn. Several are answered as JSON.",
    "inference_steps": "null is the model's own number: 8 on turbo, 28 elsewhere.",
    "mp3_bitrate": "Of mp3, opus and aac, such as 192k.",
    "seed": "-1 draws one; the reply says which.",
    "seeds": "One for each cover, in place of seed.",
    "audio_format": "Kind of the files.",
    "thinking": "Let the language model hear the source and fill in the facts that are left open.",
    "response_format": "audio (one file) or json (rows with links); left out, the Accept header decides.",
    "async": "Answer at once with an id to ask for.",
}


def request_schema() -> dict[str, Any]:
    """JSON schema of a request; other parameters are rejected."""
    meanings = _meanings(CoverSetting.__doc__ or "") | _MEANINGS
    properties: dict[str, Any] = {}
    for kind in (GenerationParams, GenerationConfig):
        hints = get_type_hints(kind)
        for item in fields(kind):
            if item.name not in ACCEPTED:
                continue
            schema = _schema(hints[item.name]) | _allowed(item.name)
            if item.name not in REQUIRED:
                schema["default"] = DEFAULTS.get(item.name, item.default)
            if item.name in meanings:
                schema["description"] = meanings[item.name]
            properties[item.name] = schema
    properties["async"] = {"type": "boolean", "default": False, "description": _MEANINGS["async"]}
    properties["response_format"] = {
        "type": "string",
        "enum": list(REPLIES),
        "description": _MEANINGS["response_format"],
    }
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
            "required": ["status", "kind", "message", "remedy", "field", "value"],
            "properties": {
                "status": {"type": "integer"},
                "kind": {"type": "string", "description": "one word, for programs"},
                "message": {"type": "string"},
                "remedy": {"type": "string"},
                "field": {"type": ["string", "null"], "description": "the parameter that is wrong"},
                "value": {"type": ["string", "null"], "description": "its value, cut where it is long"},
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


def _schema(hint: Any) -> dict[str, Any]:
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = [_KINDS[get_origin(part) or part] if part is not type(None) else "null" for part in parts]
    schema: dict[str, Any] = {"type": kinds[0] if len(kinds) == 1 else kinds}
    for part in parts:
        if get_origin(part) is list:
            inner = get_args(part)[0]
            schema["items"] = {"type": _KINDS.get(inner, "object")}
    return schema


def _allowed(name: str) -> dict[str, Any]:
    if name in CHOICES:
        return {"enum": list(CHOICES[name])}
    if name in RANGES:
        low, high = RANGES[name]
        return {"minimum": low, "maximum": high}
    if name == "batch_size":
        return {"minimum": 1, "maximum": MAX_BATCH}
    return {"enum": list(FORMATS)} if name == "audio_format" else {}


def _meanings(doc: str) -> dict[str, str]:
    """Meanings of names in a docstring: paragraphs such as ``shift, seed: ...``."""
    found: dict[str, str] = {}
    for paragraph in re.split(r"\n    (?=\w+(?:, \w+)*: )", doc):
        names, colon, text = paragraph.partition(": ")
        if colon and re.fullmatch(r"\w+(?:, \w+)*", names.strip()):
            found |= dict.fromkeys(names.strip().split(", "), " ".join(text.split()))
    return found
