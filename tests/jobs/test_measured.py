"""Covers are measured as they are made, compared from files alone, measured afterwards, and chosen from."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import soundfile
from rich.console import Console

from acestep.errors import RequestError
from pipeline.cluster.spec import ClusterSpec
from pipeline.metrics.registry import MEASURES
from pipeline.metrics.spec import MetricsSpec
from pipeline.report.findings import FOLDER, Findings
from pipeline.report.spec import FindingsSpec
from pipeline.results.reader import current_rows
from pipeline.storage.store import open_store
from pipeline.tracking.spec import TrackingSpec
from pipeline.workflows.compare import compare_folder
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.measure import measure_all
from pipeline.workflows.restyle import run
from pipeline.workflows.select import select_winners
from pipeline.workflows.specs import CompareJob, MeasureJob, RestyleJob, SelectJob
from pipeline.workflows.summary import Summary
from tests.conftest import melody
from tests.job_command import run_job
from tests.miniature import BASE

if TYPE_CHECKING:
    from mlflow.entities import Run

pytestmark = pytest.mark.usefixtures("ray_cluster")
DEFAULT = [measure.name for measure in MEASURES if not measure.extra]
TRACKS, SETTINGS, SEEDS = 2, 4, 2


def job_on(folder: Path, output: str, **changes: object) -> RestyleJob:
    values: dict[str, object] = {
        "manifest": str(folder / "tracks.jsonl"),
        "output": str(folder / output),
        "cover": {"inference_steps": 4, "seed": 1},
        "model": BASE,
        "grid": {"audio_cover_strength": [0.25, 0.75], "guidance_scale": [3, 9], "seed": [1, 2]},
        "cluster": ClusterSpec(workers=1),
        "tracking": TrackingSpec(enabled=False),
    }
    return RestyleJob(**values | changes)  # type: ignore[arg-type]


def restyle(job: RestyleJob) -> Summary:
    return run(job, ConsoleReporter(Console(file=io.StringIO())))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    rows = []
    for k in range(TRACKS):
        soundfile.write(folder / f"t{k}.flac", melody(10.5, seed=k), 48_000)
        rows.append({"track_id": f"t{k}", "source": f"t{k}.flac", "caption": "jazz"})
    (folder / "tracks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def made(folder: Path, ray_cluster: None) -> Summary:
    """A finished job, tracked in a database of its own."""
    return restyle(job_on(folder, "out", tracking=TrackingSpec(uri=f"sqlite:///{folder}/first.db")))


def compared(output: str, tracking: TrackingSpec) -> tuple[Findings, dict[str, str]]:
    """A folder's comparison in tables alone, and where it is tracked."""
    spec = FindingsSpec(listen_tracks=0, pictures=False)
    return compare_folder(CompareJob(output, findings=spec, tracking=tracking), pytest.fail)


def runs_of(uri: str, name: str = "tracks") -> dict[str, "Run"]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == name]
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_every_cover_has_every_measure_or_a_reason(folder: Path, made: Summary) -> None:
    rows = current_rows(open_store(str(folder / "out"))).to_pylist()
    assert len(rows) == TRACKS * SETTINGS * SEEDS
    for row in rows:
        reasons = {text.split(": ")[0] for text in row["unmeasured"]}
        assert {name for name in DEFAULT if row[name] is None} == reasons
        assert row["harmony/chroma_excess"] is not None
        assert row["audio/finite"] is True
        assert row["measure_s"] > 0
    assert made.findings is not None
    assert len(made.findings.comparison.outcomes) == SETTINGS  # seeds are repeats
    assert made.findings.chance.pairs == TRACKS * (TRACKS - 1)


def test_runs_are_settings_and_carry_what_was_found(folder: Path, made: Summary) -> None:
    runs = runs_of(f"sqlite:///{folder}/first.db")
    names = [f"s{strength} g{guidance}" for strength in ("0.25", "0.75") for guidance in ("3.0", "9.0")]
    assert set(runs) == {"tracks", *names}
    assert made.findings is not None
    told = made.findings.comparison.settings
    for name in names:
        metrics, params = runs[name].data.metrics, runs[name].data.params
        assert set(params) == {"audio_cover_strength", "guidance_scale"}
        assert sorted(metrics)[0] == "Objective"  # what every view of MLflow opens on
        for row in told.filter(pc.equal(told["setting_name"], name)).to_pylist():
            shown = "Objective" if row["measure"] == "objective/score" else row["measure"]
            assert metrics[shown] == pytest.approx(row["mean"])
        judged = ("outcome/ok", "outcome/copy", "outcome/lost", "outcome/not_judged")
        assert metrics["covers_made"] == sum(metrics[outcome] for outcome in judged) == TRACKS * SEEDS
        assert metrics["cover/steps_cover"] == (1 if "0.25" in name else 3)
        assert runs[name].data.tags["restyle.cover_kind"] == "cover"
    job = runs["tracks"].data
    assert job.params["seed"] == "1, 2"
    assert job.metrics["null/pairs"] == TRACKS * (TRACKS - 1)
    assert made.findings.sentences[0] in job.tags["mlflow.note.content"]


def test_a_folder_is_compared_from_its_files_alone_and_into_an_empty_server(folder: Path, made: Summary) -> None:
    output = folder / "out"
    (output / FOLDER / "settings.parquet").unlink()
    bare, links = compared(str(output), TrackingSpec(enabled=False))
    assert links == {}
    assert made.findings is not None
    assert bare.comparison == made.findings.comparison
    assert bare.chance == made.findings.chance
    assert pq.read_table(output / FOLDER / "settings.parquet").equals(bare.comparison.settings)

    empty = f"sqlite:///{folder}/second.db"
    _, links = compared(str(output), TrackingSpec(uri=empty))
    first, second = runs_of(f"sqlite:///{folder}/first.db"), runs_of(empty)
    assert set(first) == set(second)
    for name, before in first.items():
        of_launch = ("progress/", "job_")
        own = {key: value for key, value in before.data.metrics.items() if not key.startswith(of_launch)}
        assert second[name].data.metrics == pytest.approx(own)
        assert second[name].data.params == before.data.params
        for label in ("restyle.model", "restyle.cover_kind", "restyle.catalogue", "restyle.setting"):
            assert second[name].data.tags.get(label) == before.data.tags.get(label)
    assert all(second[name].info.run_id in links["compare"] for name in second if name != "tracks")
    again = compared(str(output), TrackingSpec(uri=empty))
    assert again[1] == links  # the same runs


def test_what_was_not_measured_is_measured_afterwards(folder: Path, made: Summary) -> None:
    grid = {"audio_cover_strength": [0.25], "guidance_scale": [3], "seed": [1, 2]}  # a part of what was made
    job = job_on(folder, "later", grid=grid, metrics=MetricsSpec(enabled=False))
    summary = restyle(job)
    assert summary.findings is None
    with pytest.raises(RequestError, match=r"was measured; run python -m jobs\.measure output="):
        compared(job.output, TrackingSpec(enabled=False))
    (gone,) = (folder / "later" / "audio" / "t1").glob(f"{_item(folder, 't1', 2)}.*")
    content = gone.read_bytes()
    gone.unlink()
    done = measure_all(MeasureJob(job.output, cluster=job.cluster), lambda done: None)
    assert (done.covers, done.failed) == (3, 1)
    assert "t1: all: audio/t1/" in done.reasons[0]
    rows = current_rows(open_store(job.output))
    assert rows["status"].to_pylist() == ["ok"] * 4

    at_once = {row["item_id"]: row for row in current_rows(open_store(str(folder / "out"))).to_pylist()}
    for row in rows.to_pylist():
        if row["item_id"] not in gone.name:
            for name in DEFAULT:
                assert row[name] == pytest.approx(at_once[row["item_id"]][name], abs=0.02), name
    again = measure_all(MeasureJob(job.output, cluster=job.cluster, again=True), lambda done: None)
    assert (again.covers, again.failed) == (3, 1)
    gone.write_bytes(content)
    assert measure_all(MeasureJob(job.output, cluster=job.cluster), lambda done: None).covers == 1
    assert measure_all(MeasureJob(job.output, cluster=job.cluster), lambda done: None).covers == 0
    for row in current_rows(open_store(job.output)).to_pylist():
        assert row["harmony/chroma_excess"] is not None


def _item(folder: Path, track_id: str, seed: int) -> str:
    rows = current_rows(open_store(str(folder / "later"))).to_pylist()
    return next(row["item_id"] for row in rows if (row["track_id"], row["seed"]) == (track_id, seed))


def test_anybodys_covers_can_be_measured_and_compared(folder: Path, made: Summary) -> None:
    assert made.findings is not None
    rows = current_rows(open_store(str(folder / "out"))).to_pylist()
    lines = ["source,output,setting,seed"]
    lines += [f"{r['source']},out/{r['audio_path']},{r['setting_name']},{r['seed']}" for r in rows]
    (folder / "text.flac").write_text("no audio")
    lines += [f"{folder}/t0.flac,text.flac,broken,1"]
    (folder / "pairs.csv").write_text("\n".join(lines))
    pairs = MeasureJob(str(folder / "theirs"), str(folder / "pairs.csv"), cluster=ClusterSpec(workers=1))
    done = measure_all(pairs, lambda done: None)
    assert (done.covers, done.failed) == (len(rows), 1)
    (broken,) = (row for row in current_rows(open_store(pairs.output)).to_pylist() if row["status"] != "ok")
    assert (broken["setting_name"], broken["error_kind"]) == ("broken", "unreadable_audio")
    assert done.reasons == [f"t0: {broken['error_message']}"]
    assert f"{folder}/text.flac" in broken["error_message"]
    assert done.cost > 0
    uri = f"sqlite:///{folder}/theirs.db"
    theirs, _ = compared(pairs.output, TrackingSpec(uri=uri))
    runs = runs_of(uri, "pairs")
    assert set(runs) == {"pairs", "broken", *made.findings.comparison.outcomes["setting_name"].to_pylist()}
    assert runs["pairs"].data.params == {"manifest": str(folder / "pairs.csv")}

    def means(table: pa.Table) -> dict[tuple[str, str], float]:
        return {(row["setting_name"], row["measure"]): row["mean"] for row in table.to_pylist()}

    ours = means(made.findings.comparison.settings)
    found = {key: value for key, value in means(theirs.comparison.settings).items() if key[0] != "broken"}
    assert found == pytest.approx(ours, abs=2e-2)  # of 16 bit files


def test_the_best_cover_of_every_track_is_copied(folder: Path, ray_cluster: None) -> None:
    """Covers an octave up keep the song; another tune has lost it, and the source itself is a copy."""
    lines = ["source,output,setting,track_id"]
    for k in range(TRACKS):
        for setting, wave in {"up": melody(10.5, k, 1), "other": melody(10.5, k + 50, 1)}.items():
            soundfile.write(folder / f"{setting}{k}.wav", wave, 48_000)
            lines.append(f"t{k}.flac,{setting}{k}.wav,{setting},")
        lines.append(f"t{k}.flac,t{k}.flac,same,")
    lines.append("t0.flac,nothing.wav,gone,")
    lines += ["t0.flac,up0.wav,up,t\uff10", "t0.flac,up0.wav,up,Aux.1"]
    soundfile.write(folder / "alone.flac", melody(10.5, 90), 48_000)
    lines.append("alone.flac,alone.flac,same,")
    (folder / "choice.csv").write_text("\n".join(lines), encoding="utf-8")
    output = str(folder / "choice")
    done = measure_all(MeasureJob(output, str(folder / "choice.csv")), lambda done: None)
    assert (done.covers, done.failed) == (3 * TRACKS + 3, 1)
    winners = {
        row["track_id"]: row for row in select_winners(SelectJob(output, str(folder / "winners"))).to_pylist()
    }
    for k in range(TRACKS):
        assert winners[f"t{k}"]["setting_name"] == "up"
        copied = folder / "winners" / winners[f"t{k}"]["file"]
        assert copied.read_bytes() == (folder / f"up{k}.wav").read_bytes()
    assert winners["alone"]["file"] is None
    assert winners["alone"]["reason"]
    assert (winners["Aux.1"]["file"], winners["t\uff10"]["file"]) == (None, None)
    assert "names the same file as 't0'" in winners["t\uff10"]["reason"]
    table = pyarrow.csv.read_csv(folder / "winners" / "winners.csv").to_pylist()
    assert {row["track_id"] for row in table} == set(winners)


def test_pairs_do_not_go_into_a_folder_of_ours(folder: Path, made: Summary) -> None:
    (folder / "one.csv").write_text("source,output\nt0.flac,t1.flac\n")
    with pytest.raises(RequestError, match="give the pairs a folder of their own"):
        measure_all(MeasureJob(str(folder / "out"), str(folder / "one.csv")), lambda done: None)


def test_a_page_that_fails_costs_no_cover_and_no_tracking(
    folder: Path, made: Summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RequestError("invalid_value", "no page")

    monkeypatch.setattr("pipeline.workflows.restyle.make_findings", fail)
    uri = f"sqlite:///{folder}/first.db"
    reporter = ConsoleReporter(Console(file=io.StringIO(), width=500))
    summary = run(job_on(folder, "out", tracking=TrackingSpec(uri=uri)), reporter)
    assert (summary.ok, summary.new, summary.findings) == (TRACKS * SETTINGS * SEEDS, 0, None)
    assert "the covers are there and not compared: no page" in reporter.console.file.getvalue()  # type: ignore[attr-defined]
    assert {found.info.status for found in runs_of(uri).values()} == {"FINISHED"}


def test_from_the_command_line(folder: Path, made: Summary) -> None:
    def main(job: str, *arguments: str) -> tuple[int, str]:
        done = run_job(job, *arguments)
        return done.returncode, done.stdout + done.stderr

    output, empty = f"output={folder}/out", f"output={folder}/nowhere"
    status, said = main("compare", output, "tracking.enabled=false", "listen_tracks=0")
    assert status == 0
    assert "settings, best first" in said
    assert "s0.75 g9.0" in said
    status, said = main("compare", output, "tracking.uri=http://127.0.0.1:9", "listen_tracks=0")
    assert status == 3
    assert "tracking is incomplete" in said
    more = {"compare": "tracking.enabled=false", "select": f"export={folder}/x", "measure": "again=true"}
    for job, argument in more.items():
        status, said = main(job, empty, argument)
        assert status == 2, said
        assert "nowhere" in said
    status, said = main("measure", output)
    assert status == 0
    assert "0 covers measured, 0 could not be" in said
    status, said = main("select", output, f"export={folder}/out")
    assert status == 2
    assert "is the folder that is chosen from" in said


def test_the_job_file_tells_who_made_the_folder(folder: Path, made: Summary) -> None:
    record = json.loads((folder / "out" / "job.json").read_text())
    assert record["labels"]["restyle.catalogue"] == "tracks"
    assert record["job"]["findings"] == json.loads(json.dumps(asdict(FindingsSpec())))
