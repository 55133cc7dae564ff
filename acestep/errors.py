"""The errors a user can cause. Each message names the value and the remedy."""

from acestep.redaction import without_secrets


class RestyleError(Exception):
    """Base of every error that a user's input, files or checkpoint can cause. Its message tells no password."""

    def __init__(self, message: object = ""):
        super().__init__(without_secrets(str(message)))


class RequestError(RestyleError):
    """A parameter is unknown, out of range or not supported."""


class AudioError(RestyleError):
    """An audio file cannot be read, or its content cannot be used."""


class TooLongError(AudioError):
    """An audio file is longer than what is taken, as its header says or its decoding shows."""


class GenerationError(RestyleError):
    """The model ran and what came out cannot be used; ``kind`` says why in one word."""

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


class CheckpointError(RestyleError):
    """A checkpoint is missing, incomplete or of another kind."""
