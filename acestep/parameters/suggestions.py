"""Names that a wrong one may stand for."""

import difflib
from collections.abc import Iterable

MAX_NAMES = 3
MISSPELT = 0.85  # similarity of "worker" and "workers"; that of "steps" and "timesteps" is 0.71


def nearest(name: str, accepted: Iterable[str]) -> list[str]:
    """The accepted name that differs from ``name`` by a letter or two; else those that ``name`` is a word of, such
    as "strength" of "audio_cover_strength", at most ``MAX_NAMES``; else the most similar one.

    Empty where none is similar.
    """
    accepted = list(accepted)
    misspelt = difflib.get_close_matches(name, accepted, 1, MISSPELT)
    holding = [known for known in accepted if name.lower() in known.split("_")]
    return misspelt or holding[:MAX_NAMES] or difflib.get_close_matches(name, accepted, 1)
