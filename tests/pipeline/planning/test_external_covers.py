"""Lists of sources and outputs, ours or anybody's."""

from pathlib import Path

import pytest

from pipeline.catalogue.table_reader import ManifestError
from pipeline.planning.external_covers import read_pairs


def listed(folder: Path, text: str) -> str:
    (folder / "pairs.csv").write_text(text)
    return str(folder / "pairs.csv")


def test_two_columns_are_enough(tmp_path: Path) -> None:
    (row,) = read_pairs(listed(tmp_path, "source,output\nsongs/tune.mp3,/elsewhere/cover.wav\n"))
    assert (row["track_id"], row["setting_name"], row["seed"]) == ("tune", "output", None)
    assert (row["source"], row["audio_path"]) == (str(tmp_path / "songs/tune.mp3"), "/elsewhere/cover.wav")


def test_settings_are_told_apart_by_name_or_by_their_parameters(tmp_path: Path) -> None:
    text = """source,output,track_id,setting,seed,audio_cover_strength,guidance_scale
a.wav,a1.wav,song,theirs,1,,
a.wav,a2.wav,song,,2,0.3,7
a.wav,a3.wav,song,,3,0.3,7
a.wav,a4.wav,song,,3,0.5,7
"""
    rows = list(read_pairs(listed(tmp_path, text)))
    assert [row["setting_name"] for row in rows] == ["theirs", "s0.30 g7.0", "s0.30 g7.0", "s0.50 g7.0"]
    assert len({row["setting_id"] for row in rows}) == 3
    assert len({row["item_id"] for row in rows}) == 4
    assert [row["seed"] for row in rows] == [1, 2, 3, 3]
    assert rows[1]["audio_cover_strength"] == 0.3


def test_lists_are_read_like_manifests(tmp_path: Path) -> None:
    text = "sep=;\nsource;output;track_id;setting;seed;shift\na.wav;a1.wav;7.0;null;-1;null\n;;;;;\n"
    (row,) = read_pairs(listed(tmp_path, text))
    assert (row["track_id"], row["setting_name"], row["seed"], row.get("shift")) == ("7", "null", None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,outptu\na.wav,b.wav\n", "unknown column 'outptu'; did you mean 'output'"),
        ("source\na.wav\n", "has no column 'output'; every row needs one"),
        ("source,output\na.wav,\n", "row 1: output is empty"),
        ("source,output\na.wav,b.wav\na.wav,b.wav\n", "row 2 repeats row 1"),
        ("source,output\nx/a.wav,b.wav\ny/a.wav,c.wav\n", r"row 2: track_id 'a' stands for .*x/a\.wav already"),
        ("source,output,track_id\na.wav,b.wav,../a\n", "row 1: track_id '../a' cannot name a folder"),
        ("source,output,seed\na.wav,b.wav,x\n", "row 1: seed 'x' is not a whole number"),
        ("source,output,guidance_scale\na.wav,b.wav,0\n", "row 1: guidance_scale 0 is out of range"),
        ("source,output\na.wav,b,c.wav\n", "row 1: line 2 has 3 cells"),
        ("source,output,output\na.wav,b.wav,c.wav\n", "'output' is given twice"),
        ("source,output\n", "holds no rows"),
    ],
)
def test_bad_lists_name_the_row_and_the_remedy(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        list(read_pairs(listed(tmp_path, text)))
