"""Security middleware: checks Host and Origin of requests, and adds security headers to replies.

A browser lets any web page send requests to any address that its machine reaches; the page's origin is in headers
that its scripts cannot set.
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
# Gradio needs inline scripts and styles, and shows and plays uploads from blob: and data: URLs.
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
    """Hosts and origins that may use the application.

    hosts: names of the service besides loopback; where ``named``, requests under other names are refused.
    origins: origins of other web pages that may use it.
    """

    hosts: frozenset[Host] = frozenset()
    origins: frozenset[Origin] = frozenset()
    named: bool = False


def access_rules(spec: ServiceSpec, keyed: bool) -> AccessRules:
    """The rules of a service. On loopback without keys, the host check is what keeps other web pages out."""
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
        # Proxies keep the name in Host; Gradio would trust these headers of any client.
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
                # An event stream of the page that was closed with an error, such as a tab of an earlier run.
                await send({"type": "http.response.body"})
                return
            log.warning("%s %s broke off: %s: %s", scope["method"], scope["path"], type(error).__name__, error)


def _check_framing(headers: Headers) -> None:
    """Refuse requests with two framing headers (400), which allow request smuggling through a proxy."""
    if "transfer-encoding" in headers and "content-length" in headers:
        raise ProblemError("malformed_request", "Content-Length and Transfer-Encoding are both given", "send one")


def _check_host(headers: Headers, rules: AccessRules) -> Host | None:
    """The host of a request, if valid; refuses unknown names (421), as of a DNS rebinding attack."""
    said = headers.getlist("host")
    host = None
    if len(said) == 1:
        with suppress(ValueError):
            host = parse_host(said[0])
    listed = host is not None and (host.is_loopback or host in rules.hosts or Host(host.name) in rules.hosts)
    if rules.named and not listed:
        remedy = "ask localhost, or add the name to access.hosts"
        raise ProblemError("unknown_host", "is not a name of this service", remedy, "Host", ", ".join(said))
    return host


def _check_page(method: str, headers: Headers, host: Host | None, rules: AccessRules) -> None:
    """Refuse requests from pages of other origins, except links (403)."""
    said = headers.getlist("origin")
    if len(said) == 1 and _origin(said[0]) in rules.origins:
        return
    foreign = [text for text in said if not _is_own(_origin(text), host)]
    sites = [site for site in headers.getlist("sec-fetch-site") if site not in ("same-origin", "none")]
    seen_as = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest", "document"))
    is_link = method in ("GET", "HEAD") and seen_as == ("navigate", "document")
    if foreign or (sites and not is_link):
        remedy = "use the service's own page, or add the page's origin to access.origins"
        raise ProblemError("foreign_page", "may not use this service", remedy, "Origin", ", ".join(said) or None)


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
