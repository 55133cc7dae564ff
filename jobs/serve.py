"""Serve covers over HTTP and on a web page, until Ctrl-C, SIGTERM or SIGHUP.

    python -m jobs.serve model=turbo
    python -m jobs.serve model=turbo "access.roots=[/srv/music]" host=0.0.0.0 port=8001
    python -m jobs.serve model=turbo "access.url_hosts=[files.example.org]" page=false

The environment variable RESTYLE_API_KEYS holds the API keys, separated by commas; without it the service needs no
key. By default it listens on this machine only. Results, uploads and pending requests are stored in ``output`` and
survive a restart.

Exit status: 1 aborted; 2 could not start; 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
"""

import os
import threading

from omegaconf import DictConfig

from acestep.errors import RequestError
from jobs.config_keys import complete
from jobs.exit_status import exit_on_error
from jobs.presets import read_presets, search_path
from jobs.runner import launch
from jobs.schema import build
from pipeline.service.config import ServiceSpec
from pipeline.workflows.printing import plain_console

KEYS = "RESTYLE_API_KEYS"
KEPT = "finished covers are kept, and the same command goes on with the others"


def keys_of(text: str) -> tuple[str, ...]:
    """Parse ``RESTYLE_API_KEYS``.

    Raises:
        RequestError: a key is too short to be safe.
    """
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    if any(len(key) < 16 for key in keys):
        remedy = "make one with `openssl rand -hex 24`"
        raise RequestError("invalid_value", f"{KEYS} holds a key of fewer than 16 characters", remedy)
    return keys


def run(config: DictConfig) -> int:
    """Do the job; the exit status."""
    console = plain_console()
    with exit_on_error(kept=KEPT):
        spec = build(ServiceSpec, complete(config), presets=tuple(read_presets(search_path())))
        keys = keys_of(os.environ.get(KEYS, ""))
        from acestep.checkpoints.demo import ABOUT, VARIANTS  # these import torch and Ray
        from pipeline.cluster.shutdown import stop_signals
        from pipeline.results.repair import check_parts
        from pipeline.storage.lease import BEAT_S, hold_lease
        from pipeline.storage.store import open_output

        try:
            from pipeline.service.deployment import open_service, open_to_others, running
        except ImportError as error:
            reason = f"{error.name} is not installed"
            raise RequestError("not_installed", reason, 'pip install -e ".[ui]"') from error
        if open_to_others(spec, keys):
            console.print(f"warning: {spec.host} is open to the network and {KEYS} is not set", style="yellow")
        console.print(f"checking the model {spec.model} and the folder {spec.output}")
        folder = open_output(spec.output)
        with hold_lease(folder, f"output {spec.output}", lambda text: console.print(f"warning: {text}")) as output:
            check_parts(output, spec.repair, lambda text: console.print(f"warning: {text}"))
            opened = open_service(spec, output, keys)
            console.print(f"loading {spec.model}; a large model takes minutes")
            up = threading.Event()
            with stop_signals(lambda: not up.is_set()) as request, running(opened) as address:
                up.set()
                console.print(f"{spec.model} listens at {address}/v1/audio/generations")
                if spec.page:
                    console.print(f"the Cover page is at {address}/")
                if spec.model in VARIANTS:
                    console.print(ABOUT)
                while not request.came.wait(BEAT_S):
                    output.lease.check()
        console.print(f"stopped; {KEPT}")
    return 128 + (request.signal or 2)


def main() -> None:
    """Run, as ``launch`` says."""
    launch("serve", run)


if __name__ == "__main__":
    main()
