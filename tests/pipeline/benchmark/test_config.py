"""A request is checked before anything is built."""

from typing import Any

import pytest

from acestep.constants import MIN_WORK_S
from acestep.errors import RequestError
from pipeline.benchmark.config import parse_request


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workload": "swep"}, "workload 'swep' is unknown; did you mean 'sweep'?"),
        ({"size": "huge"}, "size 'huge' is unknown; use one of mini, mid, wide, full"),
        ({"peer": "fast"}, "peer 'fast' is unknown"),
        ({"dtype": "float16"}, "dtype 'float16' is unknown; did you mean 'bfloat16'?"),
        ({"variant": "sft"}, "variant 'sft' is unknown; use one of turbo, base"),
        ({"variant": "base"}, "variant 'base' does not go with single_turbo; use single_base"),
        ({"workload": "vae", "variant": "base"}, "variant 'base' has no meaning for workload=vae"),
        ({"workload": "step", "steps": 4}, "steps 4 has no meaning for workload=step"),
        ({"rounds": 0}, "rounds 0 is too small; the least is 1"),
        ({"threads": 0}, "threads 0 is too small"),
        ({"duration_s": 5}, "duration_s 5 is out of range; allowed: 5.12..600"),
        ({"duration_s": [30, 601]}, "duration_s 601 is out of range"),
        ({"duration_s": "long"}, "duration_s 'long' is not a number of seconds"),
        ({"duration_s": True}, "duration_s True is not a number of seconds"),
        ({"duration_s": []}, "duration_s [] is not a number of seconds"),
        ({"tracks": 3}, "tracks 3 goes with workload=catalogue only"),
        ({"workload": "catalogue", "tracks": 33}, "tracks 33 is too large; the catalogue has 32"),
        ({"workload": "catalogue", "duration_s": 30}, "duration_s does not go with workload=catalogue"),
    ],
)
def test_what_has_no_meaning_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request({"workload": "single_turbo"} | values)
    assert str(caught.value).startswith(message)


def test_durations_are_one_or_several() -> None:
    assert parse_request({"workload": "step"}).duration_s is None
    assert parse_request({"workload": "step", "duration_s": MIN_WORK_S}).duration_s == (MIN_WORK_S,)
    assert parse_request({"workload": "step", "duration_s": [30, 240]}).duration_s == (30.0, 240.0)
