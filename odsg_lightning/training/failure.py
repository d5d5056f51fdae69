"""What happens when an audit fails."""

import traceback
import warnings
from collections.abc import Callable
from typing import Literal

from odsg_lightning.training.gather import FailedElsewhereError

OnError = Literal["warn", "raise"]


def attempted(work: Callable[[], None], on_error: OnError, step: int, consequence: str) -> bool:
    """Return whether some work succeeded; if not, :func:`report_failure` has been called."""
    try:
        work()
    except Exception as error:
        report_failure(on_error, step, consequence, error)
        return False
    return True


def report_failure(on_error: OnError, step: int, consequence: str, error: Exception) -> None:
    """Raise or warn; of another process's failure only that process warns.

    Args:
        on_error: which of the two.
        step: global step of the training.
        consequence: what is lost by it, a sentence.
        error: what was raised.
    """
    if on_error == "raise":
        raise RuntimeError(f"ODSmoothGrad audit failed at step {step}: {error}") from error
    if not isinstance(error, FailedElsewhereError):
        trace = "".join(traceback.format_exception(error))
        warnings.warn(
            f"The ODSmoothGrad audit at step {step} failed, and training goes on without it (on_error='raise' "
            f"would stop it). {consequence}\n{trace}",
            RuntimeWarning,
            stacklevel=3,
        )
