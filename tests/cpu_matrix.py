"""Run the tests of exactness under other instruction sets and thread counts of this CPU.

    python -m tests.cpu_matrix [--quick]

Each row is one process of pytest with the variables of one configuration; a table of the outcomes is printed. Exit
status 1 where a row fails. ``--quick`` leaves out the covers of whole jobs.
"""

import argparse
import os
import re
import subprocess
import sys
import time

CONFIGURATIONS: tuple[dict[str, str], ...] = (
    {},
    {"ATEN_CPU_CAPABILITY": "default"},
    {"ATEN_CPU_CAPABILITY": "avx2"},
    {"MKL_CBWR": "COMPATIBLE"},
    {"MKL_CBWR": "AVX2"},
    {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    {"OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "2"},
    {"OMP_NUM_THREADS": "3"},
)
TESTS = (
    "tests/parity",
    "tests/acestep/runtime/test_threads.py",
    "tests/acestep/model/test_transformer.py",
    "tests/acestep/model/test_autoencoder_cpu.py",
    "tests/acestep/model/test_ace_step.py",
)
JOBS = ("tests/jobs/test_same_audio.py",)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the covers of whole jobs")
    paths = TESTS if parser.parse_args().quick else TESTS + JOBS
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *paths]
    failures = 0
    print(f"| {'configuration':32} | passed | failed | seconds |\n| --- | ---: | ---: | ---: |")
    for variables in CONFIGURATIONS:
        started = time.monotonic()
        run = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
        counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|errors?)", run.stdout)}
        failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
        name = " ".join(f"{key}={value}" for key, value in variables.items()) or "as it comes"
        figures = f"{counts.get('passed', 0):6} | {failed:6} | {time.monotonic() - started:7.0f}"
        print(f"| {name:32} | {figures} |", flush=True)
        if run.returncode:
            failures += 1
            named = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            print("\n".join(named or [run.stdout[-2000:], run.stderr[-2000:]]))
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
