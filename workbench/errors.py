"""The errors that the workbench raises: one clear sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.descent import Iterate


class WorkbenchError(Exception):
    """Anything that went wrong in a way the user can do something about.

    The message is one sentence that names the file or parameter, says what is wrong
    and what to do. `exit_code` is what the command line exits with.
    """

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """Show the sentence instead of a stack trace; Jupyter's kernel asks for this."""
        return [f"{type(self).__name__}: {self}"]


class InputError(WorkbenchError):
    """A file, setting or parameter that was handed in cannot be used, and is refused."""

    exit_code = 2


class OutputError(WorkbenchError):
    """A result cannot be written."""


class WeightsError(WorkbenchError):
    """Pretrained weights cannot be fetched or are not what they should be."""


class OptimizationError(WorkbenchError):
    """The optimisation exploded and could not be brought back.

    `last_good` is the last iterate with a finite, sensible loss; its `.image` is worth keeping.
    """

    def __init__(self, message: str, last_good: Iterate | None) -> None:
        super().__init__(message)
        self.last_good = last_good


class MemoryExceeded(OptimizationError):
    """Memory ran out in the middle; `last_good` is None if that was before the first iterate."""


class TrainingError(WorkbenchError):
    """The training of a style model exploded and could not be brought back."""
