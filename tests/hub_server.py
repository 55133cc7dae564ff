"""A local stand-in for the Hugging Face hub: the endpoints a snapshot download calls, over folders on disk."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE = 10_000  # bytes from which on a file counts as one of the large store


@dataclass
class Hub:
    """What is served and how it misbehaves; tests change it while it runs.

    repos: hub id -> folder; refused: hub id -> (status, the hub's error code); broken: files whose download ends
    early, each with how many times it still does so; asked: every request, as "METHOD path".
    """

    repos: dict[str, Path]
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    endpoint: str = ""

    def files_sent(self) -> list[str]:
        """The files whose content was asked for, in order."""
        found = (re.fullmatch(r"GET /[\w.-]+/[\w.-]+/resolve/\w+/(.*)", line) for line in self.asked)
        return [match[1] for match in found if match]


def version(folder: Path) -> str:
    """The commit hash of a folder: of its names and sizes."""
    listing = [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in files(folder)]
    return hashlib.sha1(json.dumps(listing).encode()).hexdigest()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        # One connection per request: a client must not keep one to a server that is gone.
        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            hub.asked.append(f"{self.command} {path}")
            api = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([\w.-]+))?", path)
            resolve = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", path)
            match = api or resolve
            repo = match[1] if match else ""
            if repo in hub.refused:
                return self.send(hub.refused[repo][0], b"{}", {"X-Error-Code": hub.refused[repo][1]})
            folder = hub.repos.get(repo)
            if folder is None:
                return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if api:
                content = self.tree(folder) if api[2] == "tree" else {"id": repo, "sha": version(folder)}
                return self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})
            return self.send_file(folder, match[3], body)

        def tree(self, folder: Path) -> list[dict]:
            entries = []
            for path in files(folder):
                content = path.read_bytes()
                entry = {
                    "type": "file",
                    "path": path.relative_to(folder).as_posix(),
                    "size": len(content),
                    "oid": hashlib.sha1(content).hexdigest(),
                }
                if len(content) >= LARGE:
                    oid = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
                entries.append(entry)
            return entries

        def send_file(self, folder: Path, name: str, body: bool) -> None:
            if not (folder / name).is_file():
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            content = (folder / name).read_bytes()
            digest = hashlib.sha256 if len(content) >= LARGE else hashlib.sha1
            headers = {"ETag": f'"{digest(content).hexdigest()}"', "X-Repo-Commit": version(folder)}
            start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            status = 200
            if start:
                hub.ranges.append(f"{name} from {start[1]}")
                headers["Content-Range"] = f"bytes {start[1]}-{len(content) - 1}/{len(content)}"
                content, status = content[int(start[1]) :], 206
            if body and hub.broken.get(name, 0) > 0:
                hub.broken[name] -= 1
                return self.send(status, content, headers, sent=len(content) // 2)
            return self.send(status, content, headers, sent=len(content) if body else 0)

        def send(self, status: int, content: bytes, headers: dict[str, str], sent: int | None = None) -> None:
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[:sent])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
