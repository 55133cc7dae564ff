"""Names that a wrong one may stand for."""

import difflib
from collections.abc import Iterable

MOST_NAMES = 3


def nearest(name: str, accepted: Iterable[str]) -> list[str]:
    """Accepted names that ``name`` is a word of ("strength" of "audio_cover_strength"), else the most similar one.

    At most ``MOST_NAMES``, in the order of ``accepted``; empty where none is similar.
    """
    accepted = list(accepted)
    holding = [known for known in accepted if name.lower() in known.split("_")]
    return holding[:MOST_NAMES] or difflib.get_close_matches(name, accepted, 1)
