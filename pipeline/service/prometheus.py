"""Prometheus metrics."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)


class ServiceMetrics:
    """Metrics of one service.

    waiting, busy: read from the scheduler at each scrape.
    """

    def __init__(self, waiting: Callable[[], float], busy: Callable[[], float]):
        self.registry = CollectorRegistry()
        self.replies = Counter(
            "restyle_replies", "replies by address and status", ["route", "status"], registry=self.registry
        )
        self.covers = Counter(
            "restyle_covers", "covers asked for, by how they ended", ["how"], registry=self.registry
        )
        self.seconds = Histogram(
            "restyle_generation_seconds",
            "from request to finished covers",
            buckets=SECONDS,
            registry=self.registry,
        )
        for name, text, look in (
            ("restyle_waiting_covers", "covers whose turn has not come", waiting),
            ("restyle_busy_slots", "tracks in the hands of models", busy),
        ):
            Gauge(name, text, registry=self.registry).set_function(look)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def count_requests(app: ASGIApp, metrics: Callable[[], ServiceMetrics]) -> ASGIApp:
    """ASGI middleware that counts replies.

    Args:
        metrics: called for each reply.
    """

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")
                metrics().replies.labels(path, str(message["status"])).inc()
            await send(message)

        await app(scope, receive, sent)

    return counted
