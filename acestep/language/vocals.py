"""Detect captions that ask for singing, which a cover without lyrics does not have."""

import re

_VOICE = (
    r"vocals?|vocalists?|vocali[sz]ations?|voices?|voiced|choirs?|choral|a ?cappella|acapella|falsetto|lyrics?|"
    r"sing|sings|singers?|sung|sang|rap|raps|rapped|rappers?|rapping|croons?|crooner|crooning|chants?|chanting|"
    r"hums|humming|yodel\w*|beatbox\w*|spoken word|ad-libs?|duet|growls?|growling"
)
_INSTRUMENT = (
    r"(?:accordions?|bagpipes?|banjos?|bass(?:es|lines?|oons?)?|bowls?|brass|cellos?|clarinets?|drones?|drums?|dulcimers?|"
    r"erhus?|fiddles?|flutes?|guitars?|harmonicas?|harps?|harpsichords?|horns?|keyboards?|kotos?|leads?|lutes?|"
    r"mandolins?|marimbas?|oboes?|organs?|pads?|percussion|pianos?|recorders?|sax(?:es|ophones?)?|saws?|sitars?|"
    r"strings?|synths?|synthesizers?|theremins?|trombones?|trumpets?|tubas?|ukuleles?|vibraphones?|violas?|violins?)"
)
# Vocal words that describe an instrument or a beat.
_NOT_A_VOICE = (
    rf"(?:singing|humming|growling|growls?|crooning|chanting) (?:(?:lead|electric|slide|steel|analog|solo) )*"
    rf"(?:{_INSTRUMENT}|melod\w+|tone|amp\w*)\b|{_INSTRUMENT} (?:voices?|duets?|hums|sings|growls|croons)\b|"
    rf"duets? (?:of|for|between|with) (?:(?:an?|the|two|solo) )?{_INSTRUMENT}\b|"
    r"(?:instrumental rap|rap (?:beats?|drums?|instrumentals?|production))\b|voice leading|vocal-like|voice-like"
)
_SUNG = re.compile(
    rf"\b(?:{_VOICE}|singing)\b|人声|女声|男声|童声|歌声|演唱|合唱|说唱|独唱|ボーカル|보컬", re.IGNORECASE
)
_SPOKEN_OF = re.compile(rf"\b(?:{_NOT_A_VOICE})", re.IGNORECASE)
_NO = (
    r"\b(?:no(?![ -](?:frills|nonsense|wave|holds|less|fewer|doubt))|non(?=\W*\Z)|"
    r"not(?!-| (?:only|just|merely|simply|too|so|overly|very)\b)|never(?!-)|without|w/o|zero|minus|lacks?|lacking|"
    r"free of|free from|instead of|neither|nor|removed?|removing|exclud\w+|avoid\w*|absent|don't|doesn't|"
    r"instrumental (?:versions?|covers?|arrangements?|renditions?|remix(?:es)?|takes?|reworks?) (?:of|on))\b|"
    r"无|没有|不要|不带"
)
_BEFORE = re.compile(_NO, re.IGNORECASE)
_AFTER = re.compile(r"\A[ -]*(?:free|less|removed|muted|absent)\b", re.IGNORECASE)
_CLAUSES = re.compile(r"[,;:.!?/()\n\uff0c\u3002\uff1b\u3001]|\b(?:but|with|plus|featuring|then)\b", re.IGNORECASE)


def asks_for_singing(caption: str) -> str:
    """The word of a caption that asks for a voice, such as "vocals", or "".

    Negations do not count: "instrumental, no vocals or choir", "vocal-free", "without any singing".
    """
    caption = _SPOKEN_OF.sub(" ", caption.replace("\u2019", "'"))
    for clause in _CLAUSES.split(caption):
        ruled_out = False
        for part in re.split(r"\band\b|&", clause, flags=re.IGNORECASE):
            sung = _SUNG.search(part)
            if not sung:
                continue
            ruled_out |= bool(_BEFORE.search(part[: sung.start()]) or _AFTER.match(part[sung.end() :]))
            if not ruled_out:
                return sung[0]
    return ""
