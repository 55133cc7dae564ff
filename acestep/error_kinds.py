"""Table of error kinds, which determines HTTP statuses and retries; docs/errors.md is generated from it.

Errors of a request have specific kinds in Python; result rows use ``bad_request`` and HTTP ``invalid_value`` for
all.
"""

from dataclasses import dataclass

CLIENT, OPERATOR, NOBODY = "who asks", "who runs it", "nobody"


@dataclass(frozen=True)
class Kind:
    """Properties of an error kind.

    meaning: one sentence.
    reason: default predicate of the error's field and value.
    repair: who can repair it.
    retryable: whether a retry may succeed without a change; the next launch retries such items.
    status: HTTP status; None for kinds that do not occur in the service.
    remedy: default instruction.
    """

    meaning: str
    reason: str
    repair: str = CLIENT
    status: int | None = None
    retryable: bool = False
    remedy: str = ""


KINDS = {
    # Values of a request, a manifest or a configuration.
    "invalid_value": Kind("A value has no meaning here.", "is not valid", status=422),
    "bad_request": Kind("A request cannot be run, as a result row says it.", "is not valid", status=422),
    "out_of_range": Kind("A number is outside of its range.", "is out of range", status=422),
    "unknown_value": Kind("A value is not one of the choices.", "is unknown", status=422),
    "wrong_type": Kind("A value has another type than its parameter.", "has the wrong type", status=422),
    "lost_digits": Kind(
        "A number came as a float too large to be exact.",
        "is a float that has lost digits",
        status=422,
        remedy="write it as text or as an integer",
    ),
    "not_text": Kind("A value is not text.", "is not text", status=422, remedy="write it as text"),
    "garbled_text": Kind(
        "A text holds what no file can.", "cannot be stored", status=422, remedy="write it again"
    ),
    "empty_caption": Kind("There is no caption.", "is empty", status=422),
    "missing_value": Kind("A required value is empty.", "is empty", status=422),
    "missing_field": Kind("A required field is not given.", "is not given", status=422),
    "unknown_field": Kind("A name is no parameter, key or column.", "is unknown", status=422),
    "given_twice": Kind("A field is given twice.", "is given twice", status=422, remedy="give it once"),
    "conflict": Kind("Two values do not go together.", "does not go with another value", status=422),
    "conflicting_override": Kind("A manifest's override does not go with the job.", "does not go with the job"),
    "not_supported": Kind("A value has a meaning that is not implemented here.", "is not supported", status=422),
    "repeated_setting": Kind("Settings of a grid would give identical audio.", "gives identical audio"),
    "unknown_preset": Kind("No preset has these genres.", "is no preset"),
    # Manifests.
    "unreadable_manifest": Kind("A manifest cannot be read.", "cannot be read"),
    "malformed_row": Kind("A row of a manifest cannot be read.", "cannot be read"),
    "duplicate_track_id": Kind("Two rows have one track_id.", "is taken by another row"),
    "unsafe_track_id": Kind("A track_id cannot name a folder.", "cannot name a folder"),
    # Sources.
    "missing_file": Kind("A file is not there.", "no such file", status=404, remedy="check its name"),
    "unreadable_file": Kind("A file cannot be opened.", "cannot be read", status=422, remedy="send another"),
    "unreadable_audio": Kind("A file is no audio, or is damaged.", "not audio", status=415, remedy="send another"),
    "too_long": Kind("A source, a text or a list is longer than what is taken.", "is too long", status=413),
    "source_changed": Kind(
        "A source is not the file that was planned.",
        "has changed",
        retryable=True,
        status=409,
        remedy="launch again, or send the request again",
    ),
    "source_timeout": Kind(
        "Reading a source did not end.",
        "cannot be read in time",
        OPERATOR,
        503,
        True,
        "see whether its storage answers",
    ),
    "source_unavailable": Kind(
        "The storage of a source failed.",
        "cannot be read now",
        OPERATOR,
        503,
        True,
        "see whether its storage answers",
    ),
    # What the model makes.
    "silent_output": Kind("The cover is silent.", "is silent", status=422, remedy="use another setting"),
    "not_finite": Kind(
        "The model's output is not finite.", "is not finite", status=422, remedy="use another dtype or setting"
    ),
    "energy_collapse": Kind(
        "The cover is much weaker than its source.",
        "lost its energy",
        status=422,
        remedy="lower cover_noise_strength, or use another setting",
    ),
    "parent_failed": Kind(
        "The stage before failed, and this one starts from it.",
        "failed",
        status=422,
        remedy="see the error of the stage before",
    ),
    "cancelled": Kind(
        "Nobody waits for the cover any more.",
        "was cancelled",
        NOBODY,
        409,
        remedy="send the request again",
    ),
    "out_of_memory": Kind(
        "Memory ran out.",
        "ran out of memory",
        OPERATOR,
        503,
        True,
        "shorten the track, or give workers more memory",
    ),
    "worker_died": Kind(
        "An item ended its worker process too often.",
        "ended its worker",
        OPERATOR,
        503,
        remedy="see the worker's log",
    ),
    "internal_error": Kind("A fault of this program.", "failed", NOBODY, 500, remedy="tell whoever runs it"),
    # Output folders and storage.
    "storage_error": Kind(
        "The output folder cannot be read or written.",
        "cannot be written",
        OPERATOR,
        503,
        True,
        "come again later",
    ),
    "short_of_space": Kind(
        "There is no room on the disk.",
        "there is no room",
        OPERATOR,
        507,
        True,
        "come again later; whoever runs the service makes room, or sets store.max_gb",
    ),
    "not_writable": Kind("A file or folder cannot be written.", "cannot be written", OPERATOR),
    "missing_folder": Kind("A folder is not there, or does not hold what is needed.", "no such folder"),
    "in_use": Kind("Another launch holds the folder.", "is in use", OPERATOR),
    "lease_lost": Kind("Another launch took the folder over, or it was deleted.", "was lost", OPERATOR),
    "damaged_file": Kind("A file of an output folder is damaged.", "is damaged", OPERATOR),
    "foreign_file": Kind("A file of an output folder is none of this program's.", "cannot be used", OPERATOR),
    "other_model": Kind("An output folder holds covers of another model.", "is of another model"),
    # Checkpoints.
    "unknown_model": Kind("A model, adapter or variant has no such name.", "is unknown"),
    "missing_weights": Kind(
        "A checkpoint is not there, or is not complete.", "is missing", remedy="fetch it again"
    ),
    "damaged_weights": Kind("A file of a checkpoint cannot be read.", "is damaged", remedy="fetch it again"),
    "unsupported_weights": Kind("A checkpoint is of a kind that is not supported.", "is not supported"),
    "mismatched_weights": Kind("Files of a checkpoint do not fit together.", "does not fit"),
    "not_cached": Kind("A published model is not in the cache.", "not completely cached"),
    "not_fetched": Kind("The hub does not give what was asked of it.", "cannot be fetched"),
    # Machines.
    "not_installed": Kind("A package or a program is missing.", "is not installed", OPERATOR),
    "no_device": Kind("A device is not there.", "is not there", OPERATOR),
    "no_resources": Kind("The cluster has no place for the workers.", "has no place", OPERATOR),
    "cluster_failed": Kind("The cluster, or a part of it, did not start or was lost.", "was lost", OPERATOR),
    "unreachable": Kind("Another host does not answer, or refuses.", "cannot be reached", OPERATOR, 422),
    "tracking_failed": Kind("The tracking server does not take runs.", "takes no runs", OPERATOR),
    "unequal_outputs": Kind("Outputs that should be equal differ.", "differ", NOBODY),
    "stopped": Kind("The job was asked to stop.", "was stopped", NOBODY),
    # HTTP alone.
    "timeout": Kind(
        "A request was not sent in time.", "was not sent in time", status=408, remedy="send all of it at once"
    ),
    "unauthorized": Kind("No key, or a wrong one, was sent.", "no key, or a wrong one", status=401),
    "too_many_keys": Kind("An address sent too many wrong keys.", "too many wrong keys", status=429),
    "busy": Kind("Too many requests wait already.", "is busy", NOBODY, 429, True),
    "still_under_way": Kind("The covers are not finished yet.", "is not finished", NOBODY, 503, True),
    "not_finished": Kind(
        "The cover is not finished yet.", "is not finished", NOBODY, 404, True, "come again later"
    ),
    "unavailable": Kind("No model is ready, or its process was lost.", "is not ready", OPERATOR, 503, True),
    "gone": Kind(
        "The cover was removed to make room.",
        "the cover was removed to make room",
        NOBODY,
        410,
        remedy="send the same request; it is made again",
    ),
    "unknown_id": Kind("There is no such generation or cover.", "is unknown", status=404),
    "unknown_address": Kind(
        "The service has no such address.", "is unknown", status=404, remedy="see /openapi.json"
    ),
    "unknown_method": Kind(
        "The address has no such method.", "is unknown", status=405, remedy="see /openapi.json"
    ),
    "refused": Kind("The server refused the request.", "was refused", status=400, remedy="see /openapi.json"),
    "not_served": Kind(
        "A parameter is not served over HTTP, or not by this service.", "is not served", status=422
    ),
    "not_allowed": Kind("A source lies where this service may not read.", "is not allowed", OPERATOR, 422),
    "not_sent": Kind("A file was not uploaded here.", "was not uploaded here", status=422, remedy="upload it"),
    "too_large": Kind("A body or a file is larger than what is taken.", "is too large", status=413),
    "unsupported_media_type": Kind("A body has a content type that is not taken.", "is not taken", status=415),
    "malformed_json": Kind("A body is not one JSON object.", "is not one JSON object", status=400),
    "malformed_form": Kind("A form cannot be read.", "cannot be read", status=400, remedy="send it again"),
    "malformed_request": Kind("The headers contradict each other.", "contradict each other", status=400),
    "unknown_host": Kind("The service was asked under a name that is not its own.", "is unknown", OPERATOR, 421),
    "foreign_page": Kind("A page of another origin used the service.", "may not use this service", OPERATOR, 403),
}


def markdown() -> str:
    """The page of all kinds: docs/errors.md."""
    lines = [
        "# Kinds of errors",
        "",
        "Every error has a `kind`, and where it is about one value a `field`, its `value`, what is `allowed` and",
        "a `remedy`. The errors of a request read `bad_request` in result rows (`error_kind`) and `invalid_value`",
        "over HTTP. *Retryable*: the same request may succeed later, and the next launch makes such items again.",
        "This page is generated: `python -m acestep.error_kinds > docs/errors.md`.",
        "",
        "| Kind | Meaning | Repaired by | Retryable | HTTP |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, kind in KINDS.items():
        retried = "yes" if kind.retryable else ""
        lines.append(f"| `{name}` | {kind.meaning} | {kind.repair} | {retried} | {kind.status or ''} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
