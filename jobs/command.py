"""The command ``restyle``: dispatch of its verbs, and shell completion."""

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from acestep.parameters.suggestions import nearest

# Verb -> module in ``jobs``.
VERBS = {
    "run": "restyle",
    "serve": "serve",
    "measure": "measure",
    "compare": "compare",
    "tune": "tune",
    "select": "select",
    "validate": "validate",
    "fetch": "fetch",
    "benchmark": "benchmark",
    "train-demo": "train_demo",
}
USAGE = """usage: restyle VERB [key=value ...]

{verbs}

`restyle VERB --help` explains a verb and its keys; `restyle --version` prints the version.
Completion in bash: eval "$(restyle --completion)"."""
# bash splits words at "=", so the part before it is removed from completions.
COMPLETION = """_restyle() {
    local line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##* }"
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" --complete "$line" 2>/dev/null)
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    fi
    if [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} != *= ]]; then
        compopt +o nospace
    fi
}
complete -o nospace -o default -F _restyle restyle"""


def run(words: Sequence[str]) -> NoReturn:
    """Run the verb of a command line, or print help, version or completion code.

    Args:
        words: command line without the command.
    """
    verb, *rest = words or ["--help"]
    if verb in VERBS:
        sys.argv = [f"restyle {verb}", *rest]
        importlib.import_module(f"jobs.{VERBS[verb]}").main()
    elif verb in ("--help", "-h"):
        print(USAGE.format(verbs="\n".join(_sentences())))
    elif verb == "--version":
        print(f"restyle {version('restyle')}")
    elif verb == "--completion":
        print(COMPLETION)
    elif verb == "--complete":
        print("\n".join(completions("".join(rest))))
    else:
        close = " or ".join(nearest(verb, VERBS)) or f"one of {', '.join(VERBS)}"
        print(f"error: unknown verb {verb!r}; did you mean {close}?", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _sentences() -> list[str]:
    """A line per verb with the first sentence of its module's docstring."""
    modules = {verb: importlib.import_module(f"jobs.{name}") for verb, name in VERBS.items()}
    return [f"  {verb:12}{(module.__doc__ or '').partition(chr(10))[0]}" for verb, module in modules.items()]


def completions(line: str) -> list[str]:
    """Completions of the last word of a command line: verbs, keys, or values of a key.

    Empty for a key without declared values, for which the shell completes file names.
    """
    _, *words = line.split(" ")
    last = words[-1] if words else ""
    if len(words) < 2:
        return [verb for verb in VERBS if verb.startswith(last)]
    if words[0] not in VERBS:
        return []
    from jobs.help import groups, keys_of, options, values_of
    from jobs.schema import JOBS

    job = VERBS[words[0]]
    key, equals, _ = last.partition("=")
    if not equals:
        names = [*groups(job), *(name for name, *_ in keys_of(JOBS[job]))]
        return [f"{name}=" for name in names if name.startswith(last)]
    known = options(key) if key in groups(job) else values_of(job, key)
    return [f"{key}={value}" for value in known if f"{key}={value}".startswith(last)]
