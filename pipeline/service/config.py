"""Configuration of a service: model, output, access, limits and storage."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from acestep.constants import MAX_SOURCE_SECONDS
from acestep.errors import RequestError
from pipeline.catalogue.presets import Preset
from pipeline.cluster.spec import ClusterSpec
from pipeline.metrics.spec import MetricsSpec
from pipeline.service.hosts import parse_host, parse_origin


@dataclass(frozen=True)
class Limits:
    """What one request, and all together, may ask for.

    upload_mb: of one request's body, files included, in 10^6 bytes; also of a file fetched from a URL.
    body_kb: of a body that is JSON, in 10^3 bytes.
    source_seconds: of a source or a reference.
    caption_characters, lyrics_characters: of each text; the model itself knows fewer (see its notes).
    stages: covers made one of the other by one request.
    waiting: covers that wait for a model; more are refused with 429.
    wait_s: how long a request that did not say ``async`` is kept open, in seconds.
    fetch_s: how long a URL may take, in seconds.
    header_s, body_s: how long the header of a request, and its body, may take to arrive, in seconds.
    idle_s: how long a client may send nothing, or take nothing of a reply (less than 1 kB a second counts as
        nothing), in seconds.
    source_timeout_s: how long reading a source from its folder or bucket may stand still, in seconds.
    """

    upload_mb: float = 200.0
    body_kb: float = 1000.0
    source_seconds: float = MAX_SOURCE_SECONDS
    caption_characters: int = 5_000
    lyrics_characters: int = 20_000
    stages: int = 8
    waiting: int = 100
    wait_s: float = 3600.0
    fetch_s: float = 60.0
    header_s: float = 20.0
    body_s: float = 1800.0
    idle_s: float = 30.0
    source_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise RequestError(f"limits.{name} {value!r} must be above zero")
        if self.source_seconds > MAX_SOURCE_SECONDS:
            raise RequestError(
                f"limits.source_seconds {self.source_seconds:g} is more than the models know; "
                f"at most {MAX_SOURCE_SECONDS:g}"
            )


@dataclass(frozen=True)
class Access:
    """Which sources a request may name, and from where the service may be used.

    roots: folders of this service's machine, or URIs such as ``s3://bucket/music``; what lies in them may be named
        by path. None: nothing may.
    url_hosts: hosts that ``http`` and ``https`` sources may come from, as ``host`` or ``host:port``.
    hosts: names by which clients reach the service, beside those of loopback. Without keys a service on loopback
        answers to no other name; where any is listed, no service does.
    origins: web pages of other origins, as ``https://host:port``, that may use the service from a browser.
    """

    roots: tuple[str, ...] = ()
    url_hosts: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if not all(value.strip() for value in values):
                raise RequestError(f"access.{name} holds an empty name; is a shell variable not set?")
        for name in ("url_hosts", "hosts"):
            _each(name, getattr(self, name), parse_host, "host or host:port")
        _each("origins", self.origins, parse_origin, "https://host or https://host:port")


def _each(name: str, values: tuple[str, ...], parse: Callable[[str], object], form: str) -> None:
    for value in values:
        try:
            parse(value)
        except ValueError:
            raise RequestError(f"access.{name}: {value!r} is not understood; write {form}") from None


@dataclass(frozen=True)
class StoreSpec:
    """How much a service keeps of what it was sent and what it made: uploads, covers, orders, batches.

    What was not used for the longest time is removed first, and what is in use never.

    max_gb: of all of it, in 10^9 bytes; less where the disk has less room.
    keep_days: after its last use; None keeps it as long as there is room.
    """

    max_gb: float = 50.0
    keep_days: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise RequestError(f"store.{name} {value!r} must be above zero")

    @property
    def max_bytes(self) -> float:
        return self.max_gb * 1e9

    @property
    def keep_s(self) -> float:
        return math.inf if self.keep_days is None else self.keep_days * 86_400


@dataclass(frozen=True)
class ServiceSpec:
    """One service.

    output: folder of uploads, covers, result rows and requests; any location a catalogue's output may have.
    host, port: where it listens; anything but loopback is reachable by others.
    page: also serve the Cover page, which needs the extra ``ui``.
    repair: move damaged files of results out of the way, and find their covers again as they are asked for.
    presets: starting points that the page offers.
    """

    output: str
    model: str = "demo"
    variant: str | None = None
    adapter: str | None = None
    adapter_scale: float = 1.0
    compiled: bool = False
    language_model: str | None = None
    device: str | None = None
    dtype: str | None = None
    host: str = "127.0.0.1"
    port: int = 8001
    page: bool = True
    max_attempts: int = 3
    repair: bool = False
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    store: StoreSpec = field(default_factory=StoreSpec)
    cluster: ClusterSpec = field(default_factory=ClusterSpec)
    metrics: MetricsSpec = field(default_factory=MetricsSpec)
    presets: tuple[Preset, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65_535:
            raise RequestError(f"port {self.port} is out of range; allowed: 1..65535")
        try:
            parse_host(self.host)
        except ValueError:
            raise RequestError(f"host {self.host!r} is no address; write one such as 127.0.0.1 or ::1") from None
        if self.max_attempts < 2:
            raise RequestError(
                f"max_attempts {self.max_attempts}: a death may be a neighbour's fault; allow at least 2"
            )
