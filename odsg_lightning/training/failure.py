"""What happens when an audit fails."""

import traceback
import warnings
from typing import Literal

OnError = Literal["warn", "raise"]


def report_failure(on_error: OnError, step: int, consequence: str, error: Exception | None) -> None:
    """Raise or warn; no error of this process's own means that another process has failed.

    Args:
        on_error: which of the two.
        step: global step of the training.
        consequence: what is lost by it, a sentence.
        error: what was raised.
    """
    if on_error == "raise":
        raise RuntimeError(f"ODSmoothGrad audit failed at step {step}: {error or 'in another process'}") from error
    if error is not None:
        trace = "".join(traceback.format_exception(error))
        warnings.warn(
            f"The ODSmoothGrad audit at step {step} failed, and training goes on without it (on_error='raise' "
            f"would stop it). {consequence}\n{trace}",
            RuntimeWarning,
            stacklevel=3,
        )
