"""An S3 server in this process that can be made to fail: moto's, with a switch in front."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Server:
    """``fail_every`` = 5 answers each fifth request with 503; ``down`` refuses connections while it lasts; after
    ``stall`` the content of an object stops in its middle until ``resume``.

    refuse: status and code of the answer to each request that writes below a path such as "/songs/out/audio/".
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.backend = DomainDispatcherApplication(create_backend_app)
        self.fail_every = self.requests = self.failed = 0
        self.refuse: dict[str, tuple[str, str]] = {}
        self.stalled, self.resumed = "", threading.Event()
        self._listen(0)
        self.port = self.server.server_port

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find it."""
        return CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def _listen(self, port: int) -> None:
        self.server = make_server("127.0.0.1", port, self._answer, threaded=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.requests += 1
        if self.fail_every and self.requests % self.fail_every == 0:
            self.failed += 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Service Unavailable", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code></Error>"]
        for path, (status, code) in self.refuse.items():
            if environ["REQUEST_METHOD"] in ("PUT", "POST") and environ["PATH_INFO"].startswith(path):
                self.failed += 1
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start(status, [("Content-Type", "application/xml")])
                return [f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()]
        if self.stalled and environ["PATH_INFO"].endswith(self.stalled) and environ["REQUEST_METHOD"] == "GET":
            return self._half(b"".join(self.backend(environ, start)), self.resumed)
        return self.backend(environ, start)

    @staticmethod
    def _half(content: bytes, resumed: threading.Event) -> Iterator[bytes]:
        yield content[: len(content) // 2]
        resumed.wait(600)
        yield content[len(content) // 2 :]

    def stall(self, name: str) -> None:
        """Send half of each object whose name ends so."""
        self.stalled, self.resumed = name, threading.Event()

    def resume(self) -> None:
        """Send the rest, and whole objects from now on."""
        self.stalled = ""
        self.resumed.set()

    @contextmanager
    def down(self) -> Iterator[None]:
        self.stop()
        yield
        self._listen(self.port)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
