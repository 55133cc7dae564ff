"""The command ``restyle``. It is a module of its own, so that it can tell when another ``jobs`` hides ours."""

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Run a verb of the command line."""
    home = Path(__file__).parent / "jobs"
    found = importlib.util.find_spec("jobs")
    place = Path(found.origin).parent if found and found.origin else None
    if place is None or place.resolve() != home.resolve():
        print(
            f"error: jobs is imported from {place or 'nowhere'} in place of {home}; take out what put that folder "
            "on Python's path, or install restyle in an environment of its own",
            file=sys.stderr,
        )
        sys.exit(2)
    import jobs

    jobs.prepare()
    from jobs.command import run

    run(sys.argv[1:])


if __name__ == "__main__":
    main()
