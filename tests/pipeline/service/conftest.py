"""A real server over loopback, with the engine in this process: all of a service but Ray."""

import asyncio
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import soundfile

from acestep.checkpoints.checkpoint import fingerprint
from acestep.checkpoints.hub import find
from pipeline.metrics.spec import MetricsSpec
from pipeline.planning.items import ModelFacts
from pipeline.service.admission import Admission
from pipeline.service.api_keys import ApiKeys
from pipeline.service.app import make_app
from pipeline.service.config import Access, Limits, ServiceSpec, StoreSpec
from pipeline.service.engine import Engine
from pipeline.service.generation_store import GenerationStore
from pipeline.service.http_server import Server, listening_at, make_server
from pipeline.service.page.mount import mount
from pipeline.service.scheduler import Scheduler
from pipeline.service.uploads import UploadStore
from pipeline.storage.store import Store, open_store
from pipeline.worker.attempts import mark_start
from pipeline.worker.spec import WorkerSpec
from tests import miniature
from tests.conftest import tone

KEYS = ("a-key-that-nobody-guesses", "another-one-of-somebody")
START_S = 30


@dataclass(frozen=True)
class Served:
    """A running server: its address, its parts, and where its music and its output lie."""

    address: str
    server: Server
    admission: Admission
    loop: asyncio.AbstractEventLoop
    music: Path
    output: Path

    @property
    def generations(self) -> str:
        return f"{self.address}/v1/audio/generations"


def facts(model: str = miniature.BASE) -> ModelFacts:
    digest = fingerprint(find(model, None), None, 1.0)
    return ModelFacts(model, digest, is_turbo=model == miniature.TURBO, dtype="float32")


def worker_at(output: Store, model: str = miniature.BASE, **changes: object) -> WorkerSpec:
    """A worker of a miniature model that writes into a folder."""
    mark_start(output, "test")
    spec = WorkerSpec(
        output=output,
        launch="test",
        node="test",
        model=facts(model),
        variant=None,
        language_model=None,
        device="cpu",
        audio_format="flac",
        max_seconds=60.0,
        threads=None,
        max_attempts=3,
        metrics=MetricsSpec(enabled=True),
    )
    return replace(spec, **changes)


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    soundfile.write(folder / "country_song.wav", tone(5.2), 48_000)
    soundfile.write(folder / "other.flac", tone(5.2, pitch_hz=330.0), 48_000)
    return folder


@pytest.fixture
def uploads(tmp_path: Path) -> UploadStore:
    """The uploads of a service, in the folder ``out``."""
    (tmp_path / "out").mkdir()
    return UploadStore(open_store(str(tmp_path / "out")), str(tmp_path / "out"))


@contextmanager
def serving(
    music: Path,
    output: Path,
    limits: Limits,
    keys: tuple[str, ...] = (),
    page: bool = False,
    store_spec: StoreSpec | None = None,
    access: Access | None = None,
    ready: Callable[[], Awaitable[bool]] | None = None,
) -> Iterator[Served]:
    """A server, up while the block runs."""
    access = replace(access or Access(), roots=(str(music),))
    spec = ServiceSpec(str(output), access=access, limits=limits, page=page, store=store_spec or StoreSpec())
    store = open_store(str(output))
    made: list[Admission] = []
    loops: list[asyncio.AbstractEventLoop] = []
    engine = Engine(worker_at(store, max_seconds=limits.source_seconds))

    async def open_admission() -> Admission:
        loops.append(asyncio.get_running_loop())
        generation_store = GenerationStore(store, spec.store)
        made.append(
            Admission(
                spec,
                replace(facts(), name=spec.model),
                generation_store,
                Scheduler(engine.make, generation_store, 1, limits.waiting, 2),
            )
        )
        return made[0]

    async def always() -> bool:
        return True

    known = ApiKeys([hashlib.sha256(key.encode()).hexdigest() for key in keys])
    app = make_app(open_admission, ready or always, spec, known)
    if page:
        app = mount(app, spec, False, known)
    with listening_at("127.0.0.1", 0) as listening:
        server = make_server(app, limits)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        until = time.monotonic() + START_S
        while not server.started and time.monotonic() < until:
            time.sleep(0.02)
        try:
            yield Served(
                f"http://127.0.0.1:{listening.getsockname()[1]}", server, made[0], loops[0], music, output
            )
        finally:
            server.should_exit = True
            thread.join(START_S)


@pytest.fixture(scope="session")
def served(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that anybody may use."""
    limits = Limits(upload_mb=3.0, body_kb=200.0, source_seconds=30.0, waiting=6, fetch_s=2.0)
    with serving(music, tmp_path_factory.mktemp("served"), limits) as one:
        yield one


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Wait until something holds."""

    def wait(holds: Callable[[], object]) -> None:
        until = time.monotonic() + START_S
        while not holds():
            assert time.monotonic() < until
            time.sleep(0.02)

    return wait
