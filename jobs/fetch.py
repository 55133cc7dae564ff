"""Download published weights and verify every tensor; an interrupted download is resumed.

    python -m jobs.fetch model=turbo
    python -m jobs.fetch model=xl_turbo language_model=lm_1.7b adapter=owner/name
    python -m jobs.fetch model=turbo verify_only=true
    python -m jobs.fetch list=true

Exit status: 0 all files are present and valid; 2 they are not, with a message; 130 interrupted (143 by SIGTERM,
129 by SIGHUP).
"""

import os
import time
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.filesize import decimal
from tqdm.auto import tqdm

from acestep.checkpoints.hub import Source
from acestep.errors import RequestError
from acestep.fetch import Fetched, fetch_adapter, fetch_language_model, fetch_model, known
from jobs.config_keys import complete
from jobs.exit_status import OK, exit_on_error
from jobs.runner import launch
from pipeline.workflows.printing import plain_console

LINE_INTERVAL_S = 10.0


class LogLines(tqdm):
    """Progress as occasional plain lines, for logs."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.said_at = time.monotonic()
        super().__init__(*args, **kwargs, file=open(os.devnull, "w"), mininterval=LINE_INTERVAL_S)  # noqa: SIM115

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Print the progress at most every ``LINE_INTERVAL_S`` seconds."""
        if self.unit == "B" and self.n and time.monotonic() - self.said_at >= LINE_INTERVAL_S:
            self.said_at = time.monotonic()
            print(f"{decimal(int(self.n))} of {decimal(int(self.total or self.n))}", flush=True)
        return True


def wanted(config: DictConfig, progress: type[Any] | None) -> Iterator[Fetched]:
    """Fetch the models and adapters named by the configuration.

    Raises:
        RestyleError: nothing is named, a download failed, or a file does not match.
    """
    source: Source = "cache" if config.verify_only else "hub"
    if not (config.model or config.language_model or config.adapter):
        remedy = "add model=..., language_model=..., adapter=... or list=true"
        raise RequestError("invalid_value", "nothing to fetch", remedy)
    lora = None
    if config.adapter:
        adapter = fetch_adapter(config.adapter, source, progress)
        lora = adapter.folders["adapter"]
        yield adapter
    if config.model:
        yield fetch_model(config.model, config.variant, source, progress, lora)
    if config.language_model:
        yield fetch_language_model(config.language_model, source, progress)


def run(config: DictConfig) -> int:
    """Do the job; the exit status."""
    console = plain_console()
    with exit_on_error(kept="complete files are kept, and the same command goes on"):
        complete(config)
        if config.list:
            for line in overview():
                console.print(line)
            return OK
        for fetched in wanted(config, None if console.is_terminal else LogLines):
            say(console, fetched)
    return OK


def say(console: Console, fetched: Fetched) -> None:
    """Print the folders and the size of a fetched model."""
    rows = {name: str(folder) for name, folder in fetched.folders.items()} | {"size": decimal(fetched.size)}
    if fetched.fingerprint:
        rows["fingerprint"] = fetched.fingerprint
    console.print(f"{fetched.name}: complete, every tensor fits")
    for name, value in rows.items():
        console.print(f"  {name:14} {value}")


def overview() -> Iterator[str]:
    """Table of known names and their local state."""
    yield f"{'name':20}{'hub':46}{'here':10}{'size':>10}"
    for entry in known():
        size = decimal(entry.size) if entry.size else ""
        yield f"{entry.name:20}{entry.place:46}{entry.state:10}{size:>10}".rstrip()


def main() -> None:
    """Run, as ``launch`` says."""
    launch("fetch", run)


if __name__ == "__main__":
    main()
