"""The help of a job: its docstring, and each key with its default, what it may be and its meaning."""


def describe(job: str, about: str) -> str:
    return about
