"""A label's own columns, from the manifest to the winners' table, over two launches."""

import io
import json
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import soundfile
from rich.console import Console

from pipeline.catalogue.own_columns import EVERY, META
from pipeline.cluster.spec import ClusterSpec
from pipeline.report.findings import FOLDER
from pipeline.report.spec import FindingsSpec
from pipeline.results.reader import RESULTS
from pipeline.tracking.spec import TrackingSpec
from pipeline.workflows.console import ConsoleReporter
from pipeline.workflows.restyle import run
from pipeline.workflows.select import TABLE, select_winners
from pipeline.workflows.specs import RestyleJob, SelectJob
from tests.conftest import melody
from tests.miniature import BASE


@pytest.mark.usefixtures("local_pool")
def test_columns_go_from_the_manifest_to_the_winners(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", melody(10.5), 48_000)
    row = {"track_id": "a", "source": "a.flac", "caption": "jazz", "title": "Blue, Moon", "meta.label": "L"}
    job = RestyleJob(
        manifest=str(tmp_path / "tracks.jsonl"),
        output=str(tmp_path / "out"),
        cover={"inference_steps": 2, "seed": 1},
        model=BASE,
        cluster=ClusterSpec(workers=1),
        tracking=TrackingSpec(enabled=False),
        findings=FindingsSpec(listen_tracks=0, pictures=False),
        manifest_columns=EVERY,
    )

    def launched(rows: list[dict]) -> int:
        (tmp_path / "tracks.jsonl").write_text("\n".join(map(json.dumps, rows)))
        said = io.StringIO()
        run(job, ConsoleReporter(Console(file=said)))
        return len(list((tmp_path / "out" / "audio").rglob("*.flac")))

    assert launched([row, row | {"track_id": "b", "source": "gone.flac"}]) == 1
    parts = pq.read_table(tmp_path / "out" / RESULTS)
    assert [dict(meta) for meta in parts[META].to_pylist()] == [{"title": "Blue, Moon", "meta.label": "L"}] * 2
    covers = pq.read_table(tmp_path / "out" / FOLDER / "covers.parquet")
    assert covers["meta.title"].to_pylist() == ["Blue, Moon"] * 2

    select_winners(SelectJob(str(tmp_path / "out"), str(tmp_path / "best")))
    winners = {row["track_id"]: row for row in pyarrow.csv.read_csv(tmp_path / "best" / TABLE).to_pylist()}
    assert {name: (w["meta.title"], w["meta.label"]) for name, w in winners.items()} == {
        "a": ("Blue, Moon", "L"),
        "b": ("Blue, Moon", "L"),
    }

    assert launched([row | {"title": "Blue Moon", "isrc": "i"}]) == 1  # the same cover, told anew
    select_winners(SelectJob(str(tmp_path / "out"), str(tmp_path / "best")))
    winners = {row["track_id"]: row for row in pyarrow.csv.read_csv(tmp_path / "best" / TABLE).to_pylist()}
    assert (winners["a"]["meta.title"], winners["a"]["meta.isrc"]) == ("Blue Moon", "i")
    assert (winners["b"]["meta.title"], winners["b"]["meta.isrc"]) == ("Blue, Moon", "")
