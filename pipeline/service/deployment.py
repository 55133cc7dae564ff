"""Starts and stops a service on a Ray cluster: the engine's replicas, and the HTTP deployment in front of them."""

import asyncio
import hashlib
import logging
import os
import platform
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import ray
import torch
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState
from starlette.types import ASGIApp

from acestep.constants import default_dtype
from acestep.errors import RequestError
from acestep.handler import DTYPES
from acestep.model.compilation import check_compiled
from pipeline.catalogue.presets import check_preset
from pipeline.cluster.connection import connect
from pipeline.cluster.errors import PoolError
from pipeline.cluster.pool import size_pool
from pipeline.planning.items import ModelFacts
from pipeline.planning.model_files import find_model_files
from pipeline.results.collector import ResultCollector
from pipeline.service.admission import Admission
from pipeline.service.api_keys import ApiKeys
from pipeline.service.app import make_app
from pipeline.service.config import ServiceSpec
from pipeline.service.engine import CALLS, Engine
from pipeline.service.generation_store import GenerationStore
from pipeline.service.hosts import parse_host
from pipeline.service.http_deployment import HttpDeployment
from pipeline.service.loopback import listen_on_loopback
from pipeline.service.result_rows import RowIndex
from pipeline.service.retained_files import kept_files
from pipeline.service.scheduler import Scheduler
from pipeline.storage.lease import BEAT_S, Lease, LeasedStore, LeaseLostError
from pipeline.storage.store import absolute
from pipeline.worker.attempts import mark_start
from pipeline.worker.spec import WorkerSpec

APP, ENGINE, FRONT = "restyle", "Engine", "HttpDeployment"
HEAD = "node:__internal_head__"  # Ray's resource of the head node, where clients reach the service
# Serve replaces a replica that is slow to answer, and drops its open requests. A slow answer is normal where all
# cores are busy with covers.
PATIENCE_S = 120.0
# Loading a large model takes minutes; without this Serve warns every half minute.
SLOW_START, SLOW_START_S = "RAY_SERVE_SLOW_STARTUP_WARNING_S", "300"
LEFT_S = 30.0  # time for a service whose starter was killed to end
LEAVE_S = 20.0  # for running calls when the service ends

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedService:
    """A service with all parts checked, and a cluster to run on."""

    spec: ServiceSpec
    output: LeasedStore
    model: ModelFacts
    keys: tuple[str, ...]


def open_service(spec: ServiceSpec, output: LeasedStore, keys: Sequence[str] = ()) -> OpenedService:
    """Check everything that a service needs, and join or start the cluster.

    Args:
        output: the folder that ``spec.output`` names.
        keys: that clients must send; without any the service is open.

    Raises:
        RestyleError: the model, the output folder, the port or the cluster cannot be used.
    """
    if find_spec("gradio") is None and spec.page:
        reason = 'page=true needs the extra "ui" (pip install -e ".[ui]")'
        raise RequestError("not_installed", reason, "or say page=false")
    # Absolute paths, since replicas may have other working directories.
    roots = tuple(absolute(root, "./_") for root in spec.access.roots)
    spec = replace(spec, output=absolute(spec.output, "./_"), access=replace(spec.access, roots=roots))
    for preset in spec.presets:
        check_preset(preset)
    model = _model(spec)
    _refuse_taken(spec.host, spec.port)
    os.environ.setdefault(SLOW_START, SLOW_START_S)
    connect(spec.cluster)
    # A killed service's replicas end by themselves, since the folder's lease has changed.
    until = time.monotonic() + LEFT_S
    while APP in serve.status().applications and time.monotonic() < until:
        time.sleep(1)
    if APP in serve.status().applications:
        remedy = "start this one on another cluster, or end that one first"
        raise RequestError("invalid_value", "this cluster runs a service already", remedy)
    return OpenedService(spec, output, model, tuple(keys))


@contextmanager
def running(opened: OpenedService) -> Iterator[str]:
    """Run a service during the block; yields its address.

    Raises:
        RestyleError: the cluster has no room for it, or its models do not start.
    """
    spec, output, model, keys = opened.spec, opened.output, opened.model, opened.keys
    pool = size_pool(spec.cluster)
    on_gpu = bool(pool.gpus_per_worker)
    device = torch.device(spec.device or ("cuda" if on_gpu else "cpu"))
    dtype = spec.dtype or default_dtype(on_gpu)
    check_compiled(spec.compiled, device, DTYPES[dtype])
    facts = replace(model, dtype=dtype)
    collector = ResultCollector(output)
    collector.recover_receipts()
    launch = collector.results.launch
    mark_start(output, launch)
    worker = WorkerSpec(
        output=output,
        launch=launch,
        node=platform.node(),
        model=facts,
        variant=spec.variant,
        device=str(device),
        audio_format="flac",  # a default: each request has its own
        max_seconds=spec.limits.source_seconds,
        threads=pool.threads,
        max_attempts=spec.max_attempts,
        source_timeout_s=spec.limits.source_timeout_s,
        adapter=spec.adapter,
        adapter_scale=spec.adapter_scale,
        language_model=spec.language_model,
        metrics=spec.metrics,
        repair=spec.repair,
    )
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    engine = serve.deployment(
        name=ENGINE,
        num_replicas=pool.workers,
        max_ongoing_requests=CALLS,
        # With Ray's default each replica would hold a CPU, and a small machine has none to spare.
        ray_actor_options={
            "num_cpus": 0,
            "num_gpus": pool.gpus_per_worker,
            "resources": dict(spec.cluster.resources),
        },
        graceful_shutdown_timeout_s=LEAVE_S,
        health_check_period_s=5,
        logging_config=quiet,
    )(Engine)
    digests = tuple(hashlib.sha256(key.encode()).hexdigest() for key in keys)
    front = serve.deployment(
        name=FRONT,
        num_replicas=1,  # it holds the queue
        ray_actor_options={"num_cpus": 0, "resources": {HEAD: 0.001}},
        graceful_shutdown_timeout_s=5,
        health_check_timeout_s=PATIENCE_S,
        logging_config=quiet,
    )(HttpDeployment)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start("Disabled", logging_config=quiet)
        build = _builder(spec, output.lease, facts, pool.workers * CALLS, digests)
        serve.run(front.bind(build, spec, engine.bind(worker)), name=APP, route_prefix=None)
    except KeyboardInterrupt:
        _take_down()
        raise
    except RuntimeError as error:
        serve.shutdown()
        reason = str(error).strip().splitlines()
        raise PoolError(
            "cluster_failed", f"the service did not start: {(reason[-1] if reason else error)}"
        ) from error
    try:
        shown = f"[{spec.host}]" if ":" in spec.host else spec.host
        yield f"http://{shown}:{spec.port}"
    finally:
        _take_down()
        ResultCollector(output).recover_receipts()
        RowIndex(output, {file.name for file in kept_files(output)})  # drops rows whose files were removed
        ray.shutdown()


def _take_down() -> None:
    serve.delete(APP)
    if not serve.status().applications:  # another application may have started meanwhile
        serve.shutdown()


async def _watch(lease: Lease) -> None:
    """End the service when its lease is lost, or the process that started it has died on a shared cluster."""
    while True:
        await asyncio.sleep(BEAT_S)
        try:
            await asyncio.to_thread(lease.check)
        except LeaseLostError as error:
            log.critical("%s; the service ends", error)
            await asyncio.to_thread(_take_down)
            return
        except OSError as error:
            log.warning("whether the output folder is still held cannot be seen: %s", error)


def _builder(
    spec: ServiceSpec, lease: Lease, model: ModelFacts, slots: int, digests: Sequence[str]
) -> Callable[[DeploymentHandle], ASGIApp]:
    def build(engine: DeploymentHandle) -> ASGIApp:
        listen_on_loopback()
        watching: list[asyncio.Task[None]] = []

        async def open_admission() -> Admission:
            store = LeasedStore(lease.store.filesystem, lease.store.root, lease)
            generation_store = await asyncio.to_thread(GenerationStore, store, spec.store)
            watching.append(asyncio.create_task(_watch(lease)))
            handle = engine.options(stream=True)

            async def make(track: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
                response: Any = handle.make.remote(track)
                try:
                    async for event in response:
                        yield event
                finally:
                    response.cancel()

            # One more than the worker's attempts, so that the worker gives up first.
            scheduler = Scheduler(make, generation_store, slots, spec.limits.waiting, spec.max_attempts + 1)
            return Admission(spec, model, generation_store, scheduler)

        keys = ApiKeys(digests)
        app = make_app(open_admission, _ready, spec, keys)
        if spec.page:
            from pipeline.service.page.mount import mount

            return mount(app, spec, model.is_turbo, keys)
        return app

    return build


async def _ready() -> bool:
    """Whether a replica of the engine is running."""
    status = await asyncio.to_thread(serve.status)
    app = status.applications.get(APP)
    engine = app.deployments.get(ENGINE) if app else None
    return bool(engine and engine.replica_states.get(ReplicaState.RUNNING))


def _model(spec: ServiceSpec) -> ModelFacts:
    """Facts of the service's model, without its dtype; raises RestyleError where a part is missing or damaged."""
    if spec.dtype is not None and spec.dtype not in DTYPES:
        raise RequestError("unknown_value", field="dtype", value=spec.dtype, allowed=DTYPES)
    spec.metrics.check()
    files = find_model_files(spec.model, spec.variant, spec.adapter, spec.language_model)
    return files.facts(spec.model, files.verify(), spec.adapter_scale, spec.compiled)


def _refuse_taken(host: str, port: int) -> None:
    """Check that the port is free; raises RequestError where it is in use or not this machine's."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        reason = f"port {port} cannot be listened at ({error.strerror})"
        raise RequestError("invalid_value", reason, "give another", "host", host) from None


def open_to_others(spec: ServiceSpec, keys: Sequence[str]) -> bool:
    """Whether other machines can use the service without a key."""
    return not parse_host(spec.host).is_loopback and not keys
