"""The outermost layer of the application: which hosts and web pages it answers, and what every reply carries.

A browser lets any page send requests to any address that its machine reaches, this one among them; that page's
origin stands in headers which its scripts cannot set.
"""

import logging
import re
from contextlib import suppress
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.service import api_keys as keys
from pipeline.service.config import ServiceSpec
from pipeline.service.hosts import Host, Origin, parse_host, parse_origin
from pipeline.service.problem_details import ProblemError, retry_after

log = logging.getLogger(__name__)
# Gradio needs inline scripts and styles; it shows what was uploaded, and plays it, by blob: and data: addresses.
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class AccessRules:
    """Whom the application answers.

    hosts: names of the service beside loopback's; where ``named``, no request under another name is answered.
    origins: of other pages that may use it.
    """

    hosts: frozenset[Host] = frozenset()
    origins: frozenset[Origin] = frozenset()
    named: bool = False


def access_rules(spec: ServiceSpec, keyed: bool) -> AccessRules:
    """The rules of a service: on loopback without keys every page that a browser opens is its only fence."""
    return AccessRules(
        frozenset(map(parse_host, spec.access.hosts)),
        frozenset(map(parse_origin, spec.access.origins)),
        named=bool(spec.access.hosts) or (parse_host(spec.host).is_loopback and not keyed),
    )


class SecurityMiddleware:
    """ASGI middleware that refuses requests by ``AccessRules``, and adds ``HEADERS`` to all replies."""

    def __init__(self, app: ASGIApp, rules: AccessRules):
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                _add_headers(message)
            await send(message)

        headers = Headers(scope=scope)
        keys.client.set((scope.get("client") or ("",))[0])
        try:
            _check_framing(headers)
            host = _check_host(headers, self.rules)
            _check_page(scope["method"], headers, host, self.rules)
        except ProblemError as problem:
            closing = {"Connection": "close"} | retry_after(problem)
            await JSONResponse(problem.as_json(), problem.status, closing)(scope, receive, sent)
            return
        # A proxy passes the name on in Host; Gradio would take the name that anybody writes here.
        dropped = (b"x-forwarded-host", b"x-gradio-server")
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in dropped]
        try:
            await self.app(scope, receive, sent)
        except ClientDisconnect:
            log.debug("%s %s: the client left", scope["method"], scope["path"])
        except Exception as error:
            if not begun:
                raise
            log.debug("%s %s broke off", scope["method"], scope["path"], exc_info=True)
            if isinstance(error.__cause__, HTTPException):
                # A stream of the page that has said so, such as for a tab that an earlier run served.
                await send({"type": "http.response.body"})
                return
            log.warning("%s %s broke off: %s: %s", scope["method"], scope["path"], type(error).__name__, error)


def _check_framing(headers: Headers) -> None:
    """Refuse a body whose end two headers tell: a proxy may have read the other one.

    Raises:
        ProblemError: 400.
    """
    if "transfer-encoding" in headers and "content-length" in headers:
        raise ProblemError(
            400, "malformed_request", "Content-Length and Transfer-Encoding are both given", "send one"
        )


def _check_host(headers: Headers, rules: AccessRules) -> Host | None:
    """The name under which a request came, None where it has none that can be read.

    Raises:
        ProblemError: 421 the service has no such name. A page whose owner lets its name lead to this machine (DNS
            rebinding) comes with that name.
    """
    said = headers.getlist("host")
    host = None
    if len(said) == 1:
        with suppress(ValueError):
            host = parse_host(said[0])
    listed = host is not None and (host.is_loopback or host in rules.hosts or Host(host.name) in rules.hosts)
    if rules.named and not listed:
        raise ProblemError(
            421,
            "unknown_host",
            "this service does not answer under the name by which it was asked",
            "ask localhost, or add the name to access.hosts",
            "Host",
            ", ".join(said),
        )
    return host


def _check_page(method: str, headers: Headers, host: Host | None, rules: AccessRules) -> None:
    """Refuse what a page of another origin sends, but that a link leads here.

    Raises:
        ProblemError: 403.
    """
    said = headers.getlist("origin")
    if len(said) == 1 and _origin(said[0]) in rules.origins:
        return
    foreign = [text for text in said if not _is_own(_origin(text), host)]
    sites = [site for site in headers.getlist("sec-fetch-site") if site not in ("same-origin", "none")]
    seen_as = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest", "document"))
    is_link = method in ("GET", "HEAD") and seen_as == ("navigate", "document")
    if foreign or (sites and not is_link):
        raise ProblemError(
            403,
            "foreign_page",
            "a page of another origin may not use this service",
            "use the service's own page, or add the page's origin to access.origins",
            "Origin",
            ", ".join(said) or None,
        )


def _origin(text: str) -> Origin | None:
    try:
        return parse_origin(text)
    except ValueError:
        return None


def _is_own(origin: Origin | None, host: Host | None) -> bool:
    return origin is not None and host is not None and origin.is_at(host)


def _add_headers(message: Message) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers[name] = value
    for place, (known, text) in enumerate(headers.raw):
        if known == b"set-cookie":
            bare = re.sub(rb";\s*samesite=[^;]*", b"", text, flags=re.IGNORECASE)
            headers.raw[place] = (known, bare + b"; SameSite=lax")
