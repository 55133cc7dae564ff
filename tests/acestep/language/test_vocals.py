"""Captions that ask for a voice, and those that rule one out."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from acestep.constants import INSTRUMENTAL
from acestep.generation.params import GenerationParams
from acestep.generation.request import prompt_of
from acestep.generation.stages import parse_stage
from acestep.language.prompt import Prompt, check_prompt
from acestep.language.vocals import asks_for_singing

ROOT = Path(__file__).parents[3]
ASKS = """powerful vocals
a soulful female voice
sung by a children's choir
pop with rapper
rapping over trap drums
Gregorian chant
singer-songwriter ballad
no drums and powerful vocals
no drums, powerful vocals
instrumental verses, sung chorus
not too loud, breathy vocals
instrumental break then vocals
without drums but with vocals
an a cappella quartet
lo-fi with VOCAL chops
女声 流行
rock, male vocals; no autotune
screaming vocals without autotune
tenor singing in Italian
heavy metal, growls
with lyrics about the sea
call and response, gospel choir
not only vocals
not just a choir
not too loud vocals
non-stop rapping
nonstop rapping
non-English vocals
no-nonsense rapping
no wave with vocals
never-ending chants
a love duet
duet of two singers
rap over a trap beat
instrumental version of a folk song with a choir
humming along
a vocal duet of flute and harp""".splitlines()
DOES_NOT = """instrumental, no vocals
instrumental jazz, without any singing
no singing or rapping
no vocals and no choir
no vocals and choir
without vocals or choir
vocal-free techno
non-vocal
vocals removed
no lead vocals
not sung
smooth jazz, rich piano voicings
Tibetan singing bowls
singing lead guitar
a singing violin melody
trap beat with 808s
strapping drums, rapid hi-hats
no voice
heavy metal with distorted guitars
chopped orchestral samples
wrap-around synths
vocalless
voice leading in four parts
无人声
growling bass
instrumental, voiceless
featuring no vocals
lyric-free
layered harmonies
a duet of flute and harp
duet for violin and piano
flute and harp duet
instrumental rap beat
rap beats
instrumental rap
humming synths
humming analog synths
a violin sings over soft pads
the bass growls
instrumental version of a vocal track
an instrumental arrangement of a choral work
non vocal
not vocals
never sung""".splitlines()


@pytest.mark.parametrize("caption", ASKS)
def test_a_caption_that_asks_for_a_voice(caption: str) -> None:
    assert asks_for_singing(caption).casefold() in caption.casefold()
    assert asks_for_singing(caption)


@pytest.mark.parametrize("caption", DOES_NOT)
def test_a_caption_that_asks_for_none(caption: str) -> None:
    assert asks_for_singing(caption) == ""


def test_the_presets_that_sing() -> None:
    presets = [yaml.safe_load(file.read_text()) or {} for file in (ROOT / "conf" / "preset").glob("*.yaml")]
    captions = {entry["preset"]["name"]: entry["preset"]["caption"] for entry in presets if "preset" in entry}
    asking = {name for name, caption in captions.items() if asks_for_singing(caption)}
    assert asking == {"caption_heavy_metal", "country_to_heavy_metal", "folk_to_rnb"}


def sung_notes(prompt: Prompt) -> list[str]:
    return [note for note in check_prompt(prompt)[1] if "no words to sing" in note]


@pytest.mark.parametrize("lyrics", ["", "  \n", INSTRUMENTAL, "[instrumental]\n"])
def test_a_voice_without_words_is_noted(lyrics: str) -> None:
    (note,) = sung_notes(Prompt("metal, powerful vocals", lyrics))
    assert "'vocals'" in note
    assert sung_notes(Prompt("metal, no vocals", lyrics)) == []
    assert sung_notes(Prompt("metal, powerful vocals", "la la")) == []


def test_requests_and_stages_are_noted_too() -> None:
    params = GenerationParams(task_type="cover", caption="gospel choir", lyrics="la", instrumental=True)
    assert any("no words to sing" in note for note in prompt_of(params)[1])
    silent, sung = check_prompt(Prompt("jazz"))[0], Prompt("jazz", "la la")
    assert any("'rapper'" in note for note in parse_stage({"caption": "pop with rapper"}).notes(silent))
    assert parse_stage({"caption": "pop with rapper"}).notes(sung) == []
    assert parse_stage({"audio_cover_strength": 0.5}).notes(replace(silent, caption="choir")) == []
    assert len(parse_stage({"lyrics": ""}).notes(replace(sung, caption="choir"))) == 1
