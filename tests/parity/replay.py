"""Replay reference vectors: run every case of a golden folder and say how far off we are.

    python -m tests.parity.replay FOLDER [--only TEXT]

The folder holds ``checkpoints/`` (original layout), ``vectors/`` and ``audio/``. Prints a line per case: name,
difference (over the reference's largest value), tolerance, and ok, FAIL or "not supported yet". Exit status 1 on
any FAIL. Nothing here knows the sizes, seeds or settings of one folder, and absent files are passed over.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.parity.adapters import adapter_cases
from tests.parity.cases import Case, Golden
from tests.parity.end_to_end import diffusers_cases, end_to_end_cases
from tests.parity.language import language_cases, token_id_cases
from tests.parity.loops import flow_edit_cases, loop_cases, velocity_cases
from tests.parity.modules import module_cases


def all_cases(folder: Path) -> Iterator[Case]:
    """Every case of a folder, lazily: nothing runs before a case's ``difference`` is called."""
    golden = Golden(folder)
    yield from module_cases(golden)
    yield from loop_cases(golden)
    yield from velocity_cases(golden)
    yield from flow_edit_cases(golden)
    yield from end_to_end_cases(golden)
    yield from diffusers_cases(golden)
    yield from adapter_cases(golden)
    yield from language_cases(golden)
    yield from token_id_cases(golden)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="run the cases whose name contains this text")
    args = parser.parse_args()
    if not (args.folder / "vectors").is_dir():
        parser.error(f"{args.folder} has no folder vectors")
    counts = {"ok": 0, "FAIL": 0, "not supported yet": 0}
    for case in all_cases(args.folder):
        if args.only not in case.name:
            continue
        if case.difference is None:
            verdict, figures = "not supported yet", f"{'-':>9}  {'-':>8}"
        else:
            try:
                off = case.difference()
            except Exception as error:
                print(f"  {case.name}: {type(error).__name__}: {error}", file=sys.stderr)
                off = math.nan
            verdict = "ok" if off <= case.tolerance else "FAIL"
            figures = f"{off:9.2e}  {case.tolerance:8.0e}"
        counts[verdict] += 1
        print(f"{case.name:58} {figures}  {verdict}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if not counts["ok"] and not counts["FAIL"]:
        print("no case ran: the folder holds no vectors of a known kind", file=sys.stderr)
        return 1
    return int(counts["FAIL"] > 0)


if __name__ == "__main__":
    sys.exit(main())
