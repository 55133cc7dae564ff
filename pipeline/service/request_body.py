"""Reads a request body, JSON or a form with files, into ``GenerationParams`` and ``GenerationConfig``."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_type_hints

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from acestep.generation.params import SUPPORTED, SUPPORTED_CONFIG, GenerationConfig, GenerationParams
from acestep.parameters.suggestions import nearest
from acestep.parameters.values import from_json, is_empty
from acestep.sampling.setting import CoverSetting
from pipeline.service.config import Limits
from pipeline.service.problem_details import ProblemError

PARAMS = {item.name: item for item in fields(GenerationParams)}
CONFIG = {item.name: item for item in fields(GenerationConfig)}
# Fields for the form of the reply.
REPLY = ("async", "response_format")
NAMES = (*PARAMS, *CONFIG, *REPLY)
FILES = ("src_audio", "reference_audio")
# Parameters that a request may set; others are accepted at their default only. Audio codes are not served.
ACCEPTED = {*SUPPORTED, *SUPPORTED_CONFIG, *REPLY, "task_type"} - {"audio_codes"}
# Defaults that differ from those of ``GenerationParams``: the catalogue's, and one cover per reply.
DEFAULTS = {**asdict(CoverSetting()), "batch_size": 1}
REPLIES = ("audio", "json")
_TEXT = {name for name, kind in get_type_hints(GenerationParams).items() if kind in (str, str | None)}
_TEXT |= {name for name, kind in get_type_hints(GenerationConfig).items() if kind is str} | {"response_format"}
Receive = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Body:
    """A parsed request.

    given: all values by name, without files. files: uploads by field name.
    reply: "audio" or "json"; None leaves the choice to the Accept header.
    """

    given: Mapping[str, Any]
    params: GenerationParams
    config: GenerationConfig
    reply: str | None = None
    later: bool = False
    files: Mapping[str, UploadFile] = field(default_factory=dict)


async def read_body(request: Request, limits: Limits) -> Body:
    """Read the body of a generation request.

    Raises:
        ProblemError: 400 malformed JSON or form, 413 too large, 415 unsupported content type, 422 unknown name.
    """
    for name in request.query_params:
        reason = "is in the address, where no parameter is read"
        raise ProblemError("unknown_field", reason, "send it in the body", name, request.query_params[name])
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return parse(_json(await _whole(request, limits.body_kb * 1e3, "limits.body_kb")))
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        try:
            form = await _form(request, kind, limits)
        except MultiPartException as error:
            raise ProblemError("malformed_form", f"the form cannot be read: {error.message}") from None
        except HTTPException as error:
            raise ProblemError("malformed_form", f"the form cannot be read: {error.detail}") from None
        values = form.multi_items()
        files = _each_once([(name, value) for name, value in values if isinstance(value, UploadFile)])
        return parse(_each_once([(n, _from_text(n, v)) for n, v in values if isinstance(v, str)]), files)
    remedy = "send application/json, or multipart/form-data with a file"
    raise ProblemError("unsupported_media_type", "", remedy, "Content-Type", kind)


def parse(given: Mapping[str, Any], files: Mapping[str, UploadFile] | None = None) -> Body:
    """A request from named values.

    Raises:
        ProblemError: 422 a name is unknown (the message suggests the nearest), or the reply format is.
    """
    files = files or {}
    for name in (*given, *files):
        if name not in NAMES:
            near = " or ".join(nearest(name, FILES if name in files else (n for n in NAMES if n in ACCEPTED)))
            remedy = f"did you mean {near}?" if near else "see /openapi.json for all names"
            raise ProblemError("unknown_field", "is no parameter", remedy, name, given.get(name))
    known = {name: value for name, value in given.items() if not is_empty(value)}
    for name in files:
        if name not in FILES:
            raise ProblemError("unknown_field", "is no file", field=name, allowed=FILES)
        if name in known:
            raise ProblemError("given_twice", "is given as a file and as text", field=name)
    reply, later = known.get("response_format"), known.get("async", False)
    if reply is not None and reply not in REPLIES:
        remedy = "the kind of file is audio_format"
        raise ProblemError("invalid_value", "is unknown", remedy, "response_format", reply, allowed=REPLIES)
    if not isinstance(later, bool):
        raise ProblemError("invalid_value", "", "", "async", later, allowed=("true", "false"))
    values: dict[str, Any] = {**DEFAULTS, **known}
    return Body(
        given=given,
        params=GenerationParams(**{name: values[name] for name in PARAMS if name in values}),
        config=GenerationConfig(**{name: values[name] for name in CONFIG if name in values}),
        reply=reply,
        later=later,
        files=files,
    )


def wants_json(request: Request, body: Body) -> bool:
    """Whether the reply is JSON, by ``response_format`` or the Accept header.

    Raises:
        ProblemError: 422 an audio reply is requested for several covers.
    """
    accept = request.headers.get("accept", "*/*")
    several = isinstance(body.config.batch_size, int) and body.config.batch_size > 1
    if body.reply == "audio" and several and not body.later:
        reason = f"holds one file, and batch_size {body.config.batch_size} makes several"
        remedy = "use response_format json, or batch_size 1"
        raise ProblemError("invalid_value", reason, remedy, "response_format", "audio")
    if body.reply is not None:
        return body.reply == "json"
    return several or ("application/json" in accept and "audio/" not in accept)


def _json(content: bytes) -> dict[str, Any]:
    def number(word: str) -> float:
        if word != "NaN":
            raise ValueError(f"{word} is no JSON number")
        return math.nan

    try:
        values = from_json(content, _each_once, number)
    except ValueError as error:
        raise ProblemError("malformed_json", f"the body is not JSON: {error}", "send one JSON object") from None
    if not isinstance(values, dict):
        raise ProblemError("malformed_json", "the body is not a JSON object", 'send {"src_audio": ..., ...}')
    return values


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Pairs as a mapping; refuses repeated names (422)."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ProblemError("given_twice", field=name)
        values[name] = value
    return values


def _from_text(name: str, text: str) -> Any:
    """The value of a form field in its own type; values that are not text are written as in JSON."""
    if name in _TEXT or name not in NAMES or is_empty(text):
        return text
    try:
        return _json(b'{"value": %b}' % text.encode())["value"]
    except (ProblemError, UnicodeEncodeError) as error:
        if isinstance(error, ProblemError) and error.kind == "given_twice":
            raise
        raise ProblemError("invalid_value", "cannot be read", "write it as in JSON", name, text) from None


class _Form(MultiPartParser):
    """A form parser that spools files to disk, and limits all other parts to ``max_text`` bytes."""

    spool_max_size = 1 << 16
    max_text = 0.0
    text = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self.text += end - start
            if self.text > self.max_text:
                raise MultiPartException(f"its fields hold more than {self.max_text:.0f} bytes")
        super().on_part_data(data, start, end)


async def _form(request: Request, kind: str, limits: Limits) -> FormData:
    """Fields and files of a form; raises MultiPartException or HTTPException where it is malformed."""
    if kind != "multipart/form-data":
        limited = Request(request.scope, _limited(request, limits.body_kb * 1e3, "limits.body_kb"))
        return await limited.form(max_fields=len(NAMES), max_part_size=int(limits.body_kb * 1e3))
    limited = Request(request.scope, _limited(request, limits.upload_mb * 1e6, "limits.upload_mb"))
    async with aclosing(limited.stream()) as stream:
        parser = _Form(limited.headers, stream, max_files=len(FILES), max_fields=len(NAMES))
        parser.max_text = parser.max_part_size = int(limits.body_kb * 1e3)
        return await parser.parse()


async def _whole(request: Request, max_bytes: float, limit: str) -> bytes:
    return await Request(request.scope, _limited(request, max_bytes, limit)).body()


def _limited(request: Request, max_bytes: float, limit: str) -> Receive:
    """The request's body as it arrives; refuses more than ``max_bytes`` bytes (413)."""
    too_large = ProblemError(
        "too_large", f"the body is larger than {max_bytes:.0f} bytes", f"see this service's {limit}"
    )
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit() or int(announced) > max_bytes:
        raise too_large
    seen = 0

    async def receive() -> Any:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > max_bytes:
            raise too_large
        return message

    return receive
