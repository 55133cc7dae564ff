"""One error is one kind, wherever it is met."""

import pytest

from acestep.errors import AudioError, TooLongError
from pipeline.failures import outcome, source_kind
from pipeline.service.problem import of_error, of_row


@pytest.mark.parametrize(
    ("error", "status", "kind", "http"),
    [
        (TooLongError("it is longer than 600 s; cut the track"), "rejected", "too_long", 413),
        (AudioError("cannot be decoded, and its title is 'longer than 600 s'"), "failed", "unreadable_audio", 415),
    ],
)
def test_a_source_that_is_too_long_is_known_by_its_type(
    error: AudioError, status: str, kind: str, http: int
) -> None:
    row = outcome(error)
    assert (row["status"], row["error_kind"], source_kind(error)) == (status, kind, kind)
    for problem in (of_error(error, {}, ()), of_row(row, "a.wav")):
        assert (problem.status, problem.kind) == (http, kind)
