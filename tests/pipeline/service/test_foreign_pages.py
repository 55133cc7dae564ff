"""What web pages of other sites can make a browser send, and what a client with wrong keys can try."""

import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from pipeline.service import api_keys as keys_module
from pipeline.service.api_keys import FREE, ApiKeys, client
from pipeline.service.config import Access, Limits, ServiceSpec
from pipeline.service.problem_details import ProblemError
from pipeline.service.security_middleware import access_rules
from tests.pipeline.service.conftest import KEYS, Served, serving

CHROMIUM = shutil.which("chromium")
ASKED = {"src_audio": "country_song.wav", "caption": "x", "inference_steps": 1, "async": True}
ACCESS = Access(hosts=("music.example", "box:8443"), origins=("https://front.example", "http://localhost:3000"))


@pytest.fixture(scope="module")
def page(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with the page, on loopback, without keys."""
    with serving(music, tmp_path_factory.mktemp("foreign"), Limits(), page=True) as one:
        yield one


@pytest.fixture(scope="module")
def listed(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One with other names and with pages of others that may use it."""
    with serving(music, tmp_path_factory.mktemp("listed"), Limits(), page=True, access=ACCESS) as one:
        yield one


def status(served: Served, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """Of a reply, and its kind of error."""
    port = served.address.rpartition(":")[2]
    said = {name: value.replace("PORT", port) for name, value in headers.items()}
    reply = httpx.request(method, served.address + path, headers=said, json=ASKED if method == "POST" else None)
    kind = (
        reply.json().get("error", {}).get("kind", "")
        if reply.headers["content-type"] == "application/json"
        else ""
    )
    return reply.status_code, kind


LOOPBACK = "localhost:PORT LOCALHOST:PORT localhost.:PORT 127.0.0.1 127.1.2.3:1 [::1]:PORT [::1] a.localhost"
OTHERS = (
    "evil.example evil.example:PORT localhost.evil.example:PORT 127.0.0.1.evil.example 192.168.0.1:PORT [fd00::1]"
)
NO_NAMES = "0.0.0.0:PORT localhost@evil.example localhost,evil.example [::1 localhost:0"


@pytest.mark.parametrize("host", LOOPBACK.split())
def test_loopback_by_any_of_its_names(page: Served, host: str) -> None:
    assert status(page, "GET", "/health", {"Host": host})[0] == 200


@pytest.mark.parametrize("host", ["", *OTHERS.split(), *NO_NAMES.split()])
def test_another_name_is_refused_whatever_is_asked(page: Served, host: str) -> None:
    """A page whose owner lets its name lead here comes under that name, and is of one origin with it."""
    for method, path in (
        ("GET", "/health"),
        ("GET", "/"),
        ("GET", "/cover/config"),
        ("OPTIONS", "/health"),
        ("POST", "/v1/audio/generations"),
        ("POST", "/cover/gradio_api/queue/join"),
    ):
        headers = {"Host": host, "Origin": f"http://{host}", "X-Forwarded-Host": "localhost:PORT"}
        assert status(page, method, path, headers) == (421, "unknown_host"), (method, path)


FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Origin": "https://localhost.evil.example:PORT"},
    {"Origin": "http://127.0.0.1:PORT", "Host": "localhost:PORT"},
    {"Origin": "http://localhost:PORT, https://evil.example", "Host": "localhost:PORT"},
    {"Origin": "file://"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:PORT", "Host": "localhost:PORT"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_what_a_foreign_page_sends_is_refused(page: Served, headers: dict[str, str]) -> None:
    before = list(page.output.rglob("*"))
    for method, path in (
        ("POST", "/v1/audio/generations"),
        ("DELETE", "/v1/audio/generations/an-id-of-nothing"),
        ("POST", "/cover/gradio_api/upload"),
        ("POST", "/cover/gradio_api/queue/join"),
        ("POST", "/cover/gradio_api/cancel"),
        ("POST", "/cover/login"),
        ("POST", "/cover/logout"),
    ):
        assert status(page, method, path, headers) == (403, "foreign_page"), (method, path)
    assert list(page.output.rglob("*")) == before


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost:PORT", "Host": "localhost:PORT"},
        {"Origin": "http://localhost:PORT", "Host": "LocalHost.:PORT", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://[::1]:PORT", "Host": "[0:0:0:0:0:0:0:1]:PORT"},
        {"Origin": "https://localhost", "Host": "localhost"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
def test_programs_and_the_services_own_page_are_served(page: Served, headers: dict[str, str]) -> None:
    assert status(page, "POST", "/v1/audio/generations", headers)[0] == 202


def test_a_link_leads_here_and_no_frame_or_script_of_others_does(page: Served) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert status(page, "GET", "/cover/", link)[0] == 200
    for changes in (
        {"Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
        {"Origin": "null"},
    ):
        assert status(page, "GET", "/cover/", link | changes)[0] == 403
    reply = httpx.get(f"{page.address}/cover/")
    assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
    assert (reply.headers["x-frame-options"], reply.headers["x-content-type-options"]) == ("DENY", "nosniff")
    assert (
        "evil.example"
        not in httpx.get(f"{page.address}/cover/", headers={"X-Forwarded-Host": "evil.example"}).text
    )


def test_no_header_lets_a_foreign_page_read(page: Served, listed: Served) -> None:
    for served in (page, listed):
        for path in ("/health", "/cover/", "/cover/config", "/v1/models"):
            for method in ("GET", "OPTIONS"):
                asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
                reply = httpx.request(method, served.address + path, headers=asked)
                assert reply.status_code == 403
                assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("host", ["music.example", "Music.Example.:81", "box:8443", "localhost:PORT"])
def test_listed_names_are_the_services_own(listed: Served, host: str) -> None:
    own = {"Host": host, "Origin": f"https://{host}"}
    assert status(listed, "POST", "/v1/audio/generations", own)[0] == 202


@pytest.mark.parametrize("host", ["box", "box:80", "other.example", "evil.music.example"])
def test_names_that_are_not_listed(listed: Served, host: str) -> None:
    assert status(listed, "GET", "/health", {"Host": host}) == (421, "unknown_host")


@pytest.mark.parametrize("origin", ["https://front.example", "http://localhost:3000"])
def test_a_listed_page_may_ask_and_read(listed: Served, origin: str) -> None:
    cross = {"Origin": origin, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    asks = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    assert httpx.options(f"{listed.address}/v1/audio/generations", headers=cross | asks).status_code == 200
    reply = httpx.post(f"{listed.address}/v1/audio/generations", json=ASKED, headers=cross)
    assert reply.status_code == 202
    assert reply.headers["access-control-allow-origin"] == origin
    assert "access-control-allow-credentials" not in reply.headers
    for other in (
        "http://front.example",
        "https://front.example:444",
        "https://a.front.example",
        "http://localhost",
    ):
        assert status(listed, "POST", "/v1/audio/generations", cross | {"Origin": other})[0] == 403


def test_when_names_are_checked() -> None:
    open_here, keyed = ServiceSpec("out"), True
    assert access_rules(open_here, not keyed).named
    assert not access_rules(open_here, keyed).named
    assert not access_rules(ServiceSpec("out", host="0.0.0.0"), not keyed).named
    assert access_rules(ServiceSpec("out", host="0.0.0.0", access=Access(hosts=("a",))), keyed).named


def test_the_cookie_of_a_visitor_stays_with_the_page(music: Path, tmp_path: Path) -> None:
    with serving(music, tmp_path, Limits(), KEYS, page=True) as closed:
        login = f"{closed.address}/cover/login"
        reply = httpx.post(login, data={"username": "me", "password": KEYS[0]})
        cookies = reply.headers.get_list("set-cookie")
        assert len(cookies) == 2
        assert all(cookie.lower().count("samesite=") == 1 for cookie in cookies)
        assert all("samesite=lax" in cookie.lower() for cookie in cookies)
        assert any("secure" in cookie.lower() for cookie in cookies)

        # Wrong passwords and wrong keys are one and the same, and another client waits for neither.
        for number in range(FREE + 1):
            assert httpx.post(login, data={"username": "me", "password": f"wrong-{number}"}).status_code == 400
        for reply in (
            httpx.post(login, data={"username": "me", "password": KEYS[0]}),
            httpx.get(f"{closed.address}/v1/models", headers={"Authorization": f"Bearer {KEYS[0]}"}),
        ):
            assert (reply.status_code, reply.json()["error"]["kind"]) == (429, "too_many_keys")
            assert int(reply.headers["retry-after"]) >= 1
        other = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=other) as visitor:
            right = {"Authorization": f"Bearer {KEYS[0]}"}
            assert visitor.get(f"{closed.address}/v1/models", headers=right).status_code == 200
            forwarded = right | {"X-Forwarded-For": "203.0.113.7"}
            assert visitor.get(f"{closed.address}/v1/models", headers=forwarded).status_code == 200
        assert httpx.get(f"{closed.address}/health").status_code == 200


def test_the_wait_after_wrong_keys_grows_and_is_each_clients_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(keys_module.time, "monotonic", lambda: now)
    known = ApiKeys(["00" * 32])

    def tried(address: str, key: str = "wrong") -> tuple[int, int | None]:
        client.set(address)
        with pytest.raises(ProblemError) as told:
            known.owner(key)
        return told.value.status, told.value.retry_after_s

    waits = []
    for _ in range(FREE + 12):
        assert tried("192.0.2.1")[0] == 401
        status, wait = tried("192.0.2.1") if len(waits) >= FREE else (429, 0)
        assert status == 429
        waits.append(wait or 0)
        now += waits[-1]
    assert waits[FREE:] == [min(2**k, 300) for k in range(1, 13)]
    assert tried("192.0.2.1")[0] == 401
    assert tried("192.0.2.1")[0] == 429
    assert tried("192.0.2.2")[0] == 401
    # All of an IPv6 network is one client.
    for number in range(FREE + 1):
        assert tried(f"2001:db8::{number}")[0] == 401
    assert tried("2001:db8::ffff")[0] == 429
    assert tried("2001:db8:0:1::1")[0] == 401
    # No key at all is no guess.
    for _ in range(3 * FREE):
        assert tried("192.0.2.3", "")[0] == 401
    now += 2 * keys_module.FORGET_S
    for _ in range(FREE):
        assert tried("192.0.2.1")[0] == 401
    monkeypatch.setattr(keys_module, "MAX_CLIENTS", 100)
    for number in range(1000):
        tried(f"10.0.{number // 256}.{number % 256}")
    assert len(known._missed) <= 101


class Evil(http.server.BaseHTTPRequestHandler):
    """A page of another site that does what it can."""

    target = ""

    def do_GET(self) -> None:
        page = f"""<!doctype html><body><form id=f method=post enctype=multipart/form-data
            action="{self.target}/v1/audio/generations" target=out>
            <input name=caption value=x><input name=src_audio value=country_song.wav>
            <input name=inference_steps value=1><input name=async value=true></form>
            <iframe name=out></iframe><iframe id=framed src="{self.target}/cover/"></iframe>
            <script>
            document.getElementById("f").submit();
            const tried = (path, how) => fetch("{self.target}" + path, how).then(
                r => r.type + " " + r.status, e => "refused");
            const form = new FormData(); form.append("files", new Blob(["x"]), "a.wav");
            window.done = Promise.all([
                tried("/v1/audio/generations", {{method: "POST", body: new FormData(window.f)}}),
                tried("/cover/gradio_api/upload", {{method: "POST", mode: "no-cors", body: form}}),
                tried("/cover/gradio_api/queue/join", {{method: "POST", mode: "no-cors", body: "{{}}"}}),
                tried("/cover/config", {{credentials: "include"}}),
            ]);
            </script>"""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def evil_site(target: str) -> Iterator[str]:
    site = type("Site", (Evil,), {"target": target})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://evil.example:{server.server_address[1]}/"
        server.shutdown()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium")
def test_a_browser_on_a_foreign_page_makes_nothing(music: Path, tmp_path: Path) -> None:
    """And the service's own page works in it, under the policy that it is sent with."""
    from playwright.sync_api import sync_playwright

    rules = "MAP evil.example 127.0.0.1, MAP rebound.example 127.0.0.1"
    asked: list[tuple[str, int]] = []
    trouble: list[str] = []
    with (
        serving(music, tmp_path, Limits(), page=True) as page,
        evil_site(page.address) as evil,
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", f"--host-resolver-rules={rules}"]
        ) as browser,
    ):
        before = sorted(page.output.rglob("*"))
        foreign = browser.new_page()
        foreign.on("response", lambda reply: asked.append((reply.url, reply.status)))
        foreign.goto(evil, wait_until="load")
        outcome = foreign.evaluate("window.done")
        assert outcome[0] == outcome[3] == "refused"
        foreign.wait_for_timeout(300)
        ours = [answer for url, answer in asked if url.startswith(page.address)]
        assert ours
        assert set(ours) <= {403}
        rebound = browser.new_page().goto(page.address.replace("127.0.0.1", "rebound.example"))
        assert rebound is not None
        assert rebound.status == 421
        assert sorted(page.output.rglob("*")) == before

        own = browser.new_page()
        own.on("console", lambda said: trouble.append(said.text) if said.type == "error" else None)
        own.on("pageerror", lambda error: trouble.append(str(error)))
        own.goto(page.address)
        own.wait_for_selector("#compared table")
        own.set_input_files("#source input[type=file]", page.music / "country_song.wav")
        own.wait_for_selector("#source #waveform")
        own.locator("#caption textarea").fill("jazz")
        field = own.locator("#inference_steps input[type=number]")
        field.fill("1")
        field.press("Tab")
        own.locator("#generate").press("Enter")
        own.wait_for_function(
            "document.querySelector('#status').innerText.includes('done: 1 of 1')", timeout=60_000
        )
        own.wait_for_function("document.querySelectorAll('.player a[download]').length == 2")
    assert trouble == []
