"""What can be wrong at start: each class has the exit code that ``bert-serving-start`` ends with."""
from __future__ import annotations

from bert_serving.client.errors import BertServingError


class StartError(BertServingError):
    """The server cannot start, or cannot go on; the message is the one line that the user reads."""

    exit_code = 1


class ConfigError(StartError, ValueError):
    """An option, or a combination of options, that cannot work."""

    exit_code = 2


class ModelError(StartError):
    """The model directory is missing something, or holds something that does not fit."""

    exit_code = 3


class PortError(StartError):
    """A port cannot be bound."""

    exit_code = 4


class EngineError(StartError):
    """The engine cannot run here: a library, a device or memory is missing."""

    exit_code = 5


class WorkerStartError(StartError):
    """No worker becomes ready."""

    exit_code = 6


BY_NAME = {error.__name__: error
           for error in (StartError, ConfigError, ModelError, PortError, EngineError, WorkerStartError)}
"""For errors that cross a process border as their name and message."""
