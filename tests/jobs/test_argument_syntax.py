"""Arguments that Hydra refuses or reads as something else: each is named with the same argument as it works."""

import re
import shlex
import shutil
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from acestep.errors import RequestError
from jobs.argument_syntax import FIXED, checked
from jobs.config_keys import NESTED, hint
from jobs.presets import read_presets
from jobs.runner import launch
from jobs.schema import JOBS
from pipeline.catalogue.overrides import quoted
from tests.miniature import TURBO

SHELLS = [shell for shell in ("bash", "dash", "zsh", "fish") if shutil.which(shell)]
# All that a file name or a caption may hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
AWKWARD = st.text("ab \t\n,;:=()[]{}'\"\\$~#!&|<>*?@%+-./曲éß", min_size=1)


def parsed(argument: str) -> object:
    return OverridesParser.create().parse_override(argument).value()


def refused(job: str, *words: str) -> list[str]:
    """The arguments that a refusal says to write, as a shell reads them."""
    with pytest.raises(RequestError) as caught:
        checked(job, list(words))
    lines = str(caught.value).split("\n") if len(words) > 1 else [str(caught.value)]
    shown = [re.search(r"(?:write|launch with) (.*)", line, re.DOTALL) for line in lines]
    return [shlex.split(found[1])[0] for found in shown if found]


def taken(job: str, *words: str) -> list[str]:
    """The arguments as Hydra gets them."""
    return [word for word in checked(job, list(words)) if word not in FIXED]


@pytest.mark.parametrize(
    ("job", "argument"),
    [
        ("validate", "validate.report=~/bad.csv"),
        ("restyle", "manifest=日本.csv"),
        ("restyle", "manifest=my tracks (2026).csv"),
        ("restyle", "output=/data/My Music #1"),
        ("restyle", "output=/data/strength=0.5"),
        ("restyle", "output=s3://bucket/out?endpoint_override=localhost:9000"),
        ("restyle", "output=/music/Guns N' Roses"),
        ("restyle", 'preset.caption=the "best" of'),
        ("restyle", "preset.caption=rock, loud guitars"),
        ("restyle", "preset.caption=rock & roll!"),
        ("restyle", "preset.caption=rock(loud)"),
        ("restyle", "preset.caption=cost ${ in braces"),
        ("compare", "tracking.uri=postgresql://host/db?sslmode=require"),
        ("measure", "pairs=/data/a,b.csv"),
        ("select", "export=~/winners"),
        ("fetch", "adapter=~/lora (1)"),
        ("serve", "output=~/service"),
        ("benchmark", "out=~/found.md"),
        ("tune", "catalogue=été 2026; final"),
    ],
)
def test_a_text_that_hydra_refuses_is_printed_as_it_works(job: str, argument: str) -> None:
    (better,) = refused(job, argument)
    assert taken(job, better) == [better]
    key, _, text = argument.partition("=")
    assert better.startswith(f"{key}=")
    assert str(parsed(better)).replace("\\${", "${") == text


def test_a_password_in_a_text_that_hydra_refuses_is_masked() -> None:
    (better,) = refused("compare", "tracking.uri=postgresql://me:p#ss@host/db?sslmode=require")
    assert "p#ss" not in better
    assert "***@host/db?sslmode=require" in better


@settings(deadline=None)
@given(TEXT | AWKWARD)
def test_any_text_arrives_as_it_is_written(text: str) -> None:
    """At most one correction leads to the text itself, whatever it holds."""
    try:
        (argument,) = taken("restyle", f"manifest={text}")
    except RequestError:
        (argument,) = refused("restyle", f"manifest={text}")
        assert taken("restyle", argument) == [argument]
    if not set("$\\'\"[{").intersection(text) and text.strip().lower() != "null":
        assert str(parsed(argument)).strip() == text.strip()


@settings(deadline=None)
@given(TEXT | AWKWARD)
def test_quoted_text_is_read_as_it_was(text: str) -> None:
    assert parsed(f"key={quoted(text)}") == text


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_printed_can_be_pasted(shell: str, tmp_path: Path) -> None:
    texts = ["~/a b", "it's (1) #2", 'a "b" = c', "日本, é!", "$HOME `id` $(id) *?", "back\\slash #\\"]
    for text in texts:
        (better,) = refused("restyle", f"output={text}")
        line = f"printf %s {shlex.quote(better)}"
        said = subprocess.run([shell, "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        assert parsed(said) == text


@pytest.mark.parametrize(
    ("argument", "better", "value"),
    [
        (
            "stages=[{caption: blues rock, warm overdrive, audio_cover_strength: 0.8}, {}]",
            "stages",
            [{"caption": "blues rock, warm overdrive", "audio_cover_strength": 0.8}, {}],
        ),
        (
            "stages=[{caption: 'a, b: c', shift: 2}, {caption: it's (live) #1}]",
            "stages",
            [{"caption": "a, b: c", "shift": 2}, {"caption": "it's (live) #1"}],
        ),
        ("grid.guidance_scale=(3,9)", "grid.guidance_scale", [3, 9]),
        ("hydra.searchpath=[file:///my presets (1)]", "hydra.searchpath", ["file:///my presets (1)"]),
    ],
)
def test_texts_inside_of_lists_and_mappings_are_quoted(argument: str, better: str, value: object) -> None:
    (found,) = refused("restyle", argument)
    assert found.startswith(f"{better}=")
    assert taken("restyle", found) == [found]
    assert parsed(found) == value


def test_a_list_of_folders_may_have_any_names() -> None:
    for argument in ("access.roots=~/music", "access.roots=[~/music]"):
        (better,) = refused("serve", argument)
        assert parsed(better) == ["~/music"]
    (better,) = refused("serve", "access.roots=[/a b (1), /c#]")
    assert parsed(better) == ["/a b (1)", "/c#"]


@pytest.mark.parametrize(
    ("job", "argument", "better"),
    [
        ("restyle", "cover.audio_cover_strength=0.3,0.9", "grid.audio_cover_strength=[0.3,0.9]"),
        ("restyle", "audio_cover_strength=0.3,0.9", "grid.audio_cover_strength=[0.3,0.9]"),
        ("restyle", "grid.guidance_scale=3,9", "grid.guidance_scale=[3,9]"),
        ("restyle", "cover.seed=range(1,4)", "grid.seed=[1,2,3]"),
        ("restyle", "cover.seed=choice(1,5)", "grid.seed=[1,5]"),
        ("restyle", "cover.blend=switch,velocity", "grid.blend=[switch,velocity]"),
        ("validate", "cover.shift=1,3", "grid.shift=[1,3]"),
        ("restyle", "cover.shift=[1,3]", "grid.shift=[1,3]"),
        ("restyle", "guidance_scale=[3,9]", "grid.guidance_scale=[3,9]"),
        ("restyle", "cover.timesteps=0.9,0.5,0", "cover.timesteps=[0.9,0.5,0]"),
        ("tune", "tune.strengths=0.3,0.5", "tune.strengths=[0.3,0.5]"),
        ("compare", "objective.kept=melody/salience_excess,harmony/chroma_excess", ""),
        ("benchmark", "duration_s=30,240", "duration_s=[30,240]"),
        ("serve", "access.url_hosts=a.org,b.org", "access.url_hosts=[a.org,b.org]"),
    ],
)
def test_several_values_are_a_list_and_no_multirun(job: str, argument: str, better: str) -> None:
    (found,) = refused(job, argument)
    key, _, text = argument.partition("=")
    assert found == (better or f"{key}=[{text}]")
    assert taken(job, found) == [found]


def test_what_has_no_list_takes_one_value_a_launch() -> None:
    for argument in ("max_attempts=2,3", "preset=pop_to_jazz,folk_to_rnb", "cluster.workers=range(1,3)"):
        with pytest.raises(RequestError, match="one launch takes one"):
            checked("restyle", [argument])


@pytest.mark.parametrize("job", sorted(JOBS))
@pytest.mark.parametrize("word", ["-m", "--multirun", "--multi"])
def test_no_job_runs_by_multirun(job: str, word: str) -> None:
    with pytest.raises(RequestError, match=r"--multirun") as caught:
        checked(job, ["output=x", word])
    assert ("grid.<name>=[...]" in str(caught.value)) == (job in ("restyle", "validate", "tune"))


def test_a_multirun_is_told_the_grid_it_means() -> None:
    arguments = ["-m", "cover.shift=1,3", "cover.guidance_scale=3,9", "manifest=m.csv"]
    assert refused("restyle", *arguments)[1:] == ["grid.shift=[1,3]", "grid.guidance_scale=[3,9]"]


@pytest.mark.parametrize(
    "word",
    [
        "hydra.mode=MULTIRUN",
        "hydra.run.dir=here",
        "hydra.sweep.dir=here",
        "hydra.job.chdir=true",
        "hydra.output_subdir=x",
        "hydra/launcher=basic",
        "+hydra.job.name=x",
        "--experimental-rerun=config.pickle",
    ],
)
def test_what_would_make_folders_or_run_a_pickle_is_refused(word: str) -> None:
    with pytest.raises(RequestError):
        checked("restyle", [word])


@pytest.mark.parametrize("text", ["2026_11", "1e5", "1.10", "007", "true", "nan", "-0", " 7"])
def test_a_text_that_looks_like_a_number_stays_as_it_is(text: str) -> None:
    (argument,) = taken("restyle", f"output={text}")
    assert parsed(argument) == text.strip()
    assert taken("restyle", f"cover.seed={text}") == [f"cover.seed={text}"]
    assert parsed(*taken("restyle", "catalogue=null")) is None


def test_words_of_a_path_with_spaces_are_put_together() -> None:
    assert refused("restyle", "manifest=my", "new", "tracks.csv", "output=o") == ['manifest="my new tracks.csv"']
    assert refused("restyle", "manifest=", "my.csv", "output=o") == ['manifest="my.csv"']
    assert refused("restyle", "output=o", "manifest=my", "(1).csv") == ['manifest="my (1).csv"']
    with pytest.raises(RequestError, match="key=value"):
        checked("restyle", ["tracks.csv"])


def test_a_key_with_dashes_is_told_without() -> None:
    assert refused("restyle", "--manifest=a b.csv") == ["manifest=a b.csv"]
    assert refused("serve", "--port", "80") == ["port=..."]
    assert refused("benchmark", "--duration-s=3") == ["duration_s=3"]


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = refused("restyle", "manifest=~/m.csv", "cover.shift=1,2", "output=a#b")
    assert found == ['manifest="~/m.csv"', "grid.shift=[1,2]", 'output="a#b"']


def test_options_keep_their_values() -> None:
    words = ["manifest=m.csv", "--cfg", "job", "output=o", "--config-dir", "mine"]
    assert taken("restyle", *words) == ["manifest=m.csv", "output=o", "--cfg", "job", "--config-dir", "mine"]
    assert checked("restyle", ["--help"]) == ["--help"]


@pytest.mark.parametrize("job", sorted(JOBS))
@pytest.mark.parametrize("words", [["-m"], ["output=~/x", "model=turbo"]])
def test_a_refusal_is_one_message_and_status_2(
    job: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import importlib

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"jobs.{job}", *words])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"jobs.{job}").main()
    assert left.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert not said.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("columns", ["20", "80"])
def test_an_output_that_cannot_encode_a_name_gets_the_report_all_the_same(
    encoding: str, columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs import validate

    (tmp_path / "bad.csv").write_text("track_id,source,caption\n日本 é,missing.wav,rock\n", encoding="utf-8")
    words = [f"manifest={tmp_path}/bad.csv", f"output={tmp_path}/out", f"model={TURBO}"]
    out, err = (TextIOWrapper(BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "argv", ["jobs.validate", *words])
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as left:
        validate.main()
    out.flush()
    said = out.buffer.getvalue().decode(encoding)
    assert left.value.code == 3
    name = "日本 é".encode(encoding, "backslashreplace").decode(encoding)
    assert re.search(rf"^  {re.escape(name)} +missing_file ", said, re.MULTILINE)
    assert "there is no plan yet" not in said


@given(st.lists(AWKWARD | TEXT, min_size=1, max_size=3))
def test_quoted_texts_of_a_list_do_not_run_into_each_other(texts: list[str]) -> None:
    assert parsed(f"key=[{','.join(map(quoted, texts))}]") == texts


def test_brackets_nested_too_deep_are_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nested = "[" * 3000 + "]" * 3000
    monkeypatch.setattr(sys, "argv", ["validate", f"grid.guidance_scale={nested}"])
    with pytest.raises(SystemExit) as left:
        launch("validate", lambda config: 0)
    assert left.value.code == 2
    assert capsys.readouterr().err == f"error: {NESTED}\n"
    file = tmp_path / "preset" / "nested.yaml"
    file.parent.mkdir()
    file.write_text(f"preset: {nested}\n")
    with pytest.raises(RequestError):
        read_presets([tmp_path])
    assert NESTED in hint("validate", [f"hydra.searchpath=[file://{tmp_path}]", "preset=nested"])
