"""Check everything a job needs before it runs, and report all problems at once.

    python -m jobs.validate manifest=tracks.csv output=out model=turbo
    python -m jobs.validate manifest=tracks.csv output=out model=turbo validate.decode=full validate.report=bad.csv
    python -m jobs.validate manifest=tracks.csv output=new model=turbo validate.rates_from=old validate.workers=8

It takes the keys of ``jobs.restyle``, of which ``dry_run`` has no effect. It downloads nothing and generates
nothing; it caches probes of the sources in ``probes/`` of the output folder.

Exit status: 0 no problems; 2 the job could not start; 3 it could start, but some tracks cannot run or disk space
is short; 130 interrupted (143 by SIGTERM, 129 by SIGHUP).
"""

from omegaconf import DictConfig

from acestep.errors import RequestError
from jobs.config_keys import complete, given
from jobs.exit_status import COULD_NOT_START, INCOMPLETE, OK, exit_on_error
from jobs.presets import read_presets, search_path
from jobs.restyle import job_of
from jobs.runner import launch
from jobs.schema import build
from pipeline.workflows.printing import plain_console
from pipeline.workflows.specs import RestyleJob, ValidateSpec


def parts_of(config: DictConfig) -> tuple[RestyleJob, ValidateSpec, int | None]:
    """The job to check, the validation spec, and the number of workers.

    Raises:
        RestyleError: a required value is missing, or ``validate.workers`` is below one.
    """
    job = job_of(config, given("cover"), read_presets(search_path()))
    look = config.validate
    workers = look.workers if look.workers is not None else job.cluster.workers
    if workers is not None and workers < 1:
        raise RequestError("out_of_range", "may not be below one", field="validate.workers", value=workers)
    return job, build(ValidateSpec, complete(config)["validate"]), workers


def run(config: DictConfig) -> int:
    """Do the job; the exit status."""
    with exit_on_error(kept="what was learnt of the sources is kept"):
        job, spec, workers = parts_of(config)
        from pipeline.workflows.console_validation import ConsoleValidationReporter, conclude  # import torch, Ray
        from pipeline.workflows.validate import validate

        reporter = ConsoleValidationReporter(plain_console())
        found = validate(job, spec, reporter)
    conclude(found, job, spec, workers, reporter)
    return OK if found.ok else INCOMPLETE if found.can_start else COULD_NOT_START


def main() -> None:
    """Run, as ``launch`` says."""
    launch("validate", run)


if __name__ == "__main__":
    main()
