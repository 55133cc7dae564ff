"""Suggest known names for a misspelt one."""

import difflib
from collections.abc import Iterable

MAX_NAMES = 3
MISSPELT = 0.85  # similarity of "worker" and "workers"; that of "steps" and "timesteps" is 0.71


def nearest(name: str, accepted: Iterable[str]) -> list[str]:
    """Accepted names similar to ``name``; empty if there are none.

    In this order: the name of which it is a misspelling; up to ``MAX_NAMES`` names that contain it as a word, such
    as "audio_cover_strength" for "strength"; the most similar name.
    """
    accepted = list(accepted)
    misspelt = difflib.get_close_matches(name, accepted, 1, MISSPELT)
    holding = [known for known in accepted if name.lower() in known.split("_")]
    return misspelt or holding[:MAX_NAMES] or difflib.get_close_matches(name, accepted, 1)
