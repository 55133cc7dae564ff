"""API keys, and the delay of clients that send wrong ones."""

import hashlib
import hmac
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from pipeline.service.problem_details import ProblemError

FREE = 5  # wrong keys without a delay
MAX_S = 300.0  # of delay after a wrong key
FORGET_S = 3600.0
MAX_CLIENTS = 10_000  # remembered clients; the oldest are forgotten first

# The address of the client being served; Gradio's authentication callback does not get it.
client: ContextVar[str] = ContextVar("client", default="")


@dataclass
class _FailedAttempts:
    count: int
    until: float
    last: float


class ApiKeys:
    """SHA-256 digests of the accepted keys; without any, the service is open.

    The delay grows with the number of wrong keys from a client's network.
    """

    def __init__(self, digests: Sequence[str]):
        self.digests = tuple(digests)
        self._missed: OrderedDict[str, _FailedAttempts] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self.digests)

    def owner(self, key: str) -> str:
        """The digest of an accepted key; "" for an open service.

        Raises:
            ProblemError: 401 the key is wrong; 429 the client sent too many wrong keys and has to wait.
        """
        if not self.digests:
            return ""
        self.check()
        digest = hashlib.sha256(key.encode()).hexdigest()
        if not any(hmac.compare_digest(digest, known) for known in self.digests):
            if key:
                self._miss()
            raise ProblemError("unauthorized", remedy="send Authorization: Bearer <key>")
        return digest

    def check(self) -> None:
        """Check that the client may try a key.

        Raises:
            ProblemError: 429 it has to wait.
        """
        missed = self._missed.get(_network(client.get()))
        left = missed.until - time.monotonic() if missed else 0.0
        if left > 0:
            reason = "too many wrong keys came from this address"
            remedy = "come again later, with the right one"
            raise ProblemError("too_many_keys", reason, remedy, retry_after_s=math.ceil(left))

    def _miss(self) -> None:
        name, now = _network(client.get()), time.monotonic()
        missed = self._missed.pop(name, None)
        count = missed.count + 1 if missed and now - missed.last < FORGET_S else 1
        wait = min(2.0 ** (count - FREE), MAX_S) if count > FREE else 0.0
        self._missed[name] = _FailedAttempts(count, now + wait, now)
        if len(self._missed) > MAX_CLIENTS:
            self._missed.popitem(last=False)


def _network(address: str) -> str:
    """The network of one client: the address, or the /64 of an IPv6 address."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv6Address) and known.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(known) >> 64 << 64, 64)))
    return str(known)
