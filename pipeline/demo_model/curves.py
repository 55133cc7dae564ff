"""Curves of a training in MLflow: one run for each training, found again by its folder."""

from collections.abc import Callable, Mapping

from pipeline.tracking.runs import connect, import_client
from pipeline.tracking.uri import checked

EXPERIMENT, TAG_FOLDER = "train_demo", "restyle.training"


def curves(uri: str, folder: str) -> Callable[[str, int, Mapping[str, float]], None]:
    """Something that logs smoothed losses of a stage at a step, as ``<stage>/<loss>``.

    Raises:
        RequestError: the URI can never work.
        Exception: the tracker does not answer.
    """
    import_client()
    client = connect(checked(uri))
    found = client.get_experiment_by_name(EXPERIMENT)
    place = found.experiment_id if found else client.create_experiment(EXPERIMENT)
    runs = client.search_runs([place], f"tags.`{TAG_FOLDER}` = '{folder}'", max_results=1)
    run = (
        runs[0]
        if runs
        else client.create_run(place, tags={TAG_FOLDER: folder}, run_name=folder.rsplit("/", 1)[-1])
    )

    def report(stage: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            client.log_metric(run.info.run_id, f"{stage}/{name}", value, step=step)

    return report
