"""Check the arguments of a job before Hydra parses them.

Hydra's grammar gives a meaning to commas, parentheses, ``=``, quotes and ``$``, and refuses ``~``, ``#`` and
non-ASCII letters. The error message for a refused argument shows the same argument with working quotes.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from itertools import islice
from typing import Any, get_args, get_origin, get_type_hints

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException

from acestep.errors import RequestError
from jobs.schema import JOBS
from pipeline.catalogue.overrides import as_override, quoted

# Jobs create no Hydra output folder and run once, whatever the user's configuration says.
FIXED = (
    "hydra.mode=RUN",
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)
OF_HYDRA = ("hydra.searchpath", "hydra.verbose")
MAX_VALUES = 100
_ARGUMENT = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[\w.$/@-]+)=(?P<text>.*)", re.DOTALL)


def checked(job: str, words: Sequence[str]) -> list[str]:
    """Check a command line and translate it for Hydra.

    Values of text keys are quoted, so that ``output=2026_11`` is not parsed as a number.

    Raises:
        RequestError: an argument is invalid; the message shows a valid form.
    """
    _refuse_dashed_keys(job, words)
    options = get_args_parser().parse_intermixed_args(words)
    if options.help or options.hydra_help or options.shell_completion:
        return [*words]
    if options.experimental_rerun is not None:
        remedy = "give the arguments instead"
        raise RequestError("invalid_value", "--experimental-rerun reads a pickle, which can run any code", remedy)
    problems, taken = [], []
    for argument, rest in _joined(options.overrides):
        try:
            taken.append(_taken(job, argument, rest))
        except RequestError as error:
            problems.append(str(error))
    if options.multirun:
        grid = "write what varies as grid.<name>=[...]" if _has_grid(job) else "leave it out"
        problems.insert(0, f"--multirun: jobs.{job} runs once; {grid}")
    if problems:
        raise RequestError("invalid_value", "\n".join(problems))
    return [*taken, *FIXED, *_without(words, options.overrides)]


def kind_of(job: str, key: str) -> Any:
    """The type of a job's key, or None if there is no such key."""
    kind = JOBS[job]
    for name in key.split("."):
        hints = get_type_hints(kind) if is_dataclass(kind) else {}
        if name not in hints:
            return None
        kind = hints[name]
    return kind


def is_text(kind: Any) -> bool:
    """Whether a key of this type holds text."""
    return kind in (str, str | None)


def _is_list(kind: Any) -> bool:
    return any(get_origin(one) is list for one in (kind, *get_args(kind)))


def _refuse_dashed_keys(job: str, words: Sequence[str]) -> None:
    """Refuse options such as ``--output`` that are keys.

    Raises:
        RequestError: there is such an option.
    """
    for word in words:
        name, _, text = word.removeprefix("--").replace("-", "_").partition("=")
        if word.startswith("--") and kind_of(job, name) is not None:
            remedy = f"write {(shlex.quote(f'{name}={text}') if text else f'{name}=...')}"
            raise RequestError("invalid_value", "keys have no dashes", remedy, where=word)


def _joined(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each argument with the following words that are no arguments, such as the rest of an unquoted path."""
    argument, rest = "", ""
    for word in overrides:
        if argument and "=" not in word and not word.startswith("~"):
            rest += f" {word}"
            continue
        if argument:
            yield argument, rest
        argument, rest = word, ""
    if argument:
        yield argument, rest


def _without(words: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The words that are not overrides: options and their values."""
    left, options = [*overrides], []
    for word in words:
        if left and word == left[0]:
            left.pop(0)
        else:
            options.append(word)
    return options


def _taken(job: str, argument: str, rest: str) -> str:
    """Check an argument and translate it for Hydra.

    Args:
        rest: following words that are no arguments.

    Raises:
        RequestError: the argument is invalid.
    """
    found = _ARGUMENT.fullmatch(argument)
    if found is None:
        if argument.startswith("~"):  # deletes a key
            return argument
        remedy = "quote a value with spaces whole"
        raise RequestError("invalid_value", f"{shlex.quote(argument)} is not of the form key=value", remedy)
    sign, key, text = found["sign"] or "", found["key"], found["text"]
    if re.match(r"hydra[./]", key) and key not in OF_HYDRA:
        remedy = f"of Hydra's own keys give {' or '.join(OF_HYDRA)} only"
        raise RequestError("invalid_value", "a job sets this itself", remedy, where=key)
    kind = kind_of(job, key)
    if rest:
        whole = _mended(f"{sign}{key}", (text + rest).strip(), kind) or argument + rest
        remedy = f"if it belongs to {key}, write {shlex.quote(whole)}"
        raise RequestError("invalid_value", f"{rest.strip()} is not of the form key=value", remedy)
    try:
        override = _parsed(argument)
    except HydraException as error:
        better = _mended(f"{sign}{key}", text, kind)
        if better is None:
            raise RequestError(
                "invalid_value", f"{shlex.quote(argument)} cannot be read: {str(error).splitlines()[0]}"
            ) from None
        remedy = f"write {shlex.quote(better)}"
        reason = "Hydra cannot read this value without quotes"
        raise RequestError("invalid_value", reason, remedy, where=key) from None
    swept = kind_of(job, f"grid.{key.removeprefix('cover.')}") is not None
    if override.is_sweep_override() or (swept and isinstance(override.value(), list) and not _is_list(kind)):
        raise _instead_of_sweep(job, key, text, kind, override)
    if is_text(kind) and not isinstance(override.value(), str | None):
        return f"{sign}{key}={quoted(text.strip())}"
    return argument


def _parsed(argument: str) -> Override:
    return OverridesParser.create().parse_override(argument)


def _has_grid(job: str) -> bool:
    return kind_of(job, "grid") is not None


def _instead_of_sweep(job: str, key: str, text: str, kind: Any, override: Override) -> RequestError:
    """The error for several values, which Hydra would parse as a sweep."""
    name = key.removeprefix("cover.")
    swept = f"grid.{name}"
    reason, remedy = f"{key}={text} is more than one value, and one launch takes one", ""
    listed = _listed(override, text)
    if _is_list(kind) or kind is Any:
        remedy = f"write {shlex.quote(f'{key}={listed}')}"
    elif kind_of(job, swept) is not None and not name.startswith("flow_edit_source_"):
        remedy = f"sweep them in one launch with {shlex.quote(f'{swept}={listed}')}"
    elif is_text(kind) or kind is None:
        remedy = f"if it is one text, write {shlex.quote(f'{key}={quoted(text)}')}"
    return RequestError("conflict", reason, remedy)


def _listed(override: Override, text: str) -> str:
    """The values of a sweep as a list; ``[...]`` if they are not enumerated."""
    sweep = override._value
    if isinstance(sweep, RangeSweep):
        return as_override([*islice(sweep.range(), MAX_VALUES)])
    if isinstance(sweep, list):
        return text
    if not isinstance(sweep, ChoiceSweep):
        return "[...]"
    return f"[{text}]" if sweep.simple_form else f"[{text.partition('(')[2].rpartition(')')[0]}]"


def _mended(key: str, text: str, kind: Any) -> str | None:
    """``key=text`` with the necessary quotes; None if quoting does not make it valid."""
    structured = not is_text(kind) and text.lstrip()[:1] in ("[", "{", "(")
    value = _quoted_inside(text) if structured else quoted(_literal(text))
    better = f"{key}=[{value}]" if _is_list(kind) and not structured else f"{key}={value}"
    try:
        return None if _parsed(better).is_sweep_override() else better
    except HydraException:
        return None


def _literal(text: str) -> str:
    """Escape ``${`` that is not closed."""
    return re.sub(r"(\\*)\$\{(?![^}]+\})", r"\1\1\\${", text)


def _quoted_inside(text: str) -> str:
    """Quote the texts in a list or mapping where the grammar requires it."""
    text = text.strip()
    opening, closing = text[:1], text[-1:]
    if (opening, closing) in (("[", "]"), ("(", ")")):
        return "[" + ",".join(map(_quoted_inside, _split(text[1:-1]))) + "]"
    if (opening, closing) == ("{", "}"):
        pairs: list[list[str]] = []
        for part in _split(text[1:-1]):
            name, colon, value = part.partition(":")
            if colon:
                pairs.append([name.strip(), value])
            elif pairs:  # a comma inside a text
                pairs[-1][1] += f",{part}"
        return "{" + ",".join(f"{name}:{_quoted_inside(value)}" for name, value in pairs) + "}"
    try:
        _parsed(f"key=[{text}]")
    except HydraException:
        return quoted(_literal(text))
    return quoted(_literal(text)) if "," in text and text[:1] not in ("'", '"') else text


def _split(text: str) -> list[str]:
    """Split a text at commas outside brackets and quotes."""
    parts, depth, mark = [""], 0, ""
    for character in text:
        if mark:
            mark = "" if character == mark else mark
        elif character in "'\"" and parts[-1].rstrip()[-1:] in ("", ":", "[", "{", "("):
            mark = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        if character == "," and not depth and not mark:
            parts.append("")
        else:
            parts[-1] += character
    return parts if text.strip() else []
