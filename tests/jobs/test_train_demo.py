"""The command that trains the built-in model."""

import sys

import pytest

from jobs import train_demo
from pipeline.demo_model.curves import EXPERIMENT, curves


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stage=bse"], "did you mean base?"),
        (["steps=tiny"], "one of full, small"),
        (["plan.songs=-1"], "plan.songs -1"),
        (["stage=base"], "run stage=latents first"),
        (["stage=evaluate"], "run stage=songs first"),
        (["stage=publish"], "run stage=export first"),
        (["stage=export", "steps=small"], "run stage=encoder first"),
    ],
)
def test_what_cannot_start_says_why(words, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs.train_demo", f"output={tmp_path}", *words])
    with pytest.raises(SystemExit) as left:
        train_demo.main()
    assert left.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_curves_of_one_folder_are_one_run(tmp_path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    curves(uri, "/some/folder")("base", 20, {"flow": 1.5, "text": 1.0})
    curves(uri, "/some/folder")("base", 40, {"flow": 0.5})
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "base/flow")] == [
        (20, 1.5),
        (40, 0.5),
    ]
