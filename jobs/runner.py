"""Run a job: check its arguments, compose its configuration, and exit with its status."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

import hydra
from omegaconf import DictConfig

import conf
from acestep.errors import RequestError
from jobs.argument_syntax import checked
from jobs.config_keys import NESTED, hint
from jobs.exit_status import COULD_NOT_START
from jobs.help import describe
from jobs.schema import register

CONF = Path(conf.__file__).parent


def launch(job: str, run: Callable[[DictConfig], int]) -> NoReturn:
    """Run a job with the arguments of this process, and exit with its status.

    A configuration refused by Hydra exits with the status of a job that could not start.

    Args:
        run: the job; its module's docstring is part of ``--help``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:]
    if "--version" in words:
        print(f"restyle {version('restyle')}")
        sys.exit(0)
    if "--help" in words or "-h" in words:
        print(describe(job, run.__globals__["__doc__"]))
        sys.exit(0)
    try:
        sys.argv[1:] = checked(job, words)
    except RequestError as error:
        _refuse(f"error: {error}")
    except RecursionError:
        _refuse(f"error: {NESTED}")
    register()
    entered = False

    def task(config: DictConfig) -> None:
        nonlocal entered
        entered = True
        sys.exit(run(config))

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=job)(task)()
    except SystemExit as ended:
        if ended.code != 1 or entered:
            raise
        # Hydra has printed what is wrong with the configuration.
        _refuse(hint(job, sys.argv[1:]))
    sys.exit(0)


def _refuse(message: str) -> NoReturn:
    if message:
        print(message, file=sys.stderr)
    sys.exit(COULD_NOT_START)
