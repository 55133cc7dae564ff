"""One error is one kind, wherever it is met."""

import errno

import pytest
import torch

from acestep.errors import AudioError, TooLongError
from pipeline.service.problem_details import of_error, of_row
from pipeline.storage.source_errors import source_kind
from pipeline.worker.attempts import WorkerDiedError, WorkerMemoryError
from pipeline.worker.error_rows import outcome


@pytest.mark.parametrize(
    ("error", "status", "kind", "http"),
    [
        (TooLongError("too_long", "it is longer than 600 s", "cut the track"), "rejected", "too_long", 413),
        (AudioError("unreadable_audio", "its title is 'longer than 600 s'"), "failed", "unreadable_audio", 415),
    ],
)
def test_a_source_that_is_too_long_is_known_by_its_type(
    error: AudioError, status: str, kind: str, http: int
) -> None:
    row = outcome(error)
    assert (row["status"], row["error_kind"], source_kind(error)) == (status, kind, kind)
    for problem in (of_error(error, {}, ()), of_row(row, "a.wav")):
        assert (problem.status, problem.kind) == (http, kind)


def raised(make: Exception, cause: BaseException) -> Exception:
    make.__cause__ = cause
    return make


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
        raised(AudioError("unreadable_audio"), MemoryError()),
        WorkerMemoryError("out_of_memory"),
    ],
    ids=repr,
)
def test_memory_that_ran_out_is_one_kind_whoever_says_so(error: Exception) -> None:
    found = outcome(error)
    assert (found["status"], found["error_kind"]) == ("failed", "out_of_memory")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("shapes cannot be multiplied"), "internal_error"),
        (AudioError("unreadable_audio", "its title is 'out of memory'"), "unreadable_audio"),
        (WorkerDiedError("worker_died"), "worker_died"),
    ],
)
def test_other_errors_are_not_blamed_on_memory(error: Exception, kind: str) -> None:
    assert outcome(error)["error_kind"] == kind
