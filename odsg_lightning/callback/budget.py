"""Which validations are audited: by their number, and by the share of the run's time that audits may take."""

import time
from typing import Any

from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_info

from odsg_lightning.errors import UserInputError


class Cadence:
    """Says of each validation of a fit whether it is audited.

    The first one of a fit is, then every n-th. With a ``max_share``, an audit that would bring the time spent auditing
    above that share of the run's is skipped, as if it took as long as the longest so far; and the last validation is
    audited, whatever its number. The last is known by ``max_steps`` and ``max_epochs``, not where a run ends by time
    or by early stopping. The first and the last count as time spent, so that a short run may exceed the share by them.

    Args:
        every_n_validations: n.
        max_share: of the time, above 0 and below 1; None for no limit.

    Raises:
        UserInputError: an argument out of range.

    Example:
        >>> Cadence(every_n_validations=1, max_share=0.05).leaves_out
        True
    """

    def __init__(self, every_n_validations: int, max_share: float | None) -> None:
        """See the class for the arguments."""
        if every_n_validations < 1:
            raise UserInputError(
                f"Expected argument `every_n_validations` to be at least 1, but got {every_n_validations}."
            )
        if max_share is not None and not 0 < max_share < 1:
            raise UserInputError(
                f"Expected argument `max_share` to be above 0 and below 1, or None, but got {max_share}."
            )
        self.every_n_validations, self.max_share = every_n_validations, max_share
        self.n_skipped = 0
        self._audited_in_this_fit = False
        self._spent = self._longest = 0.0  # seconds of all audits, and of the longest one
        self._before, self._began = 0.0, time.perf_counter()  # seconds of the fits before, and when this one began
        self._place: tuple[int, int] | None = None  # steps and batches at the last validation

    @property
    def leaves_out(self) -> bool:
        """Whether there may be validations without an audit."""
        return self.every_n_validations > 1 or self.max_share is not None

    def __str__(self) -> str:
        """Return the arguments that leave validations out."""
        every = f"every_n_validations={self.every_n_validations}"
        return every if self.max_share is None else f"{every}, max_share={self.max_share}"

    def begin_fit(self) -> None:
        """Start the clock."""
        self._audited_in_this_fit, self._began = False, time.perf_counter()

    def has_come(self, trainer: Trainer, validation: int) -> bool:
        """Return whether a validation of a fit is audited; every process must ask, once for each.

        The first process decides for all: their clocks differ.

        Args:
            trainer: that fits.
            validation: its number, over all fits of the run, from 0.
        """
        turn = validation % self.every_n_validations == 0 or not self._audited_in_this_fit
        if self.max_share is not None:
            last = self._is_last(trainer)
            paid = not self._audited_in_this_fit or last or self._is_paid_for(self.max_share)
            paid = trainer.strategy.broadcast(paid)
            if turn and not paid:
                self.n_skipped += 1
                rank_zero_info(
                    f"The ODSmoothGrad audit at step {trainer.global_step} is skipped, {self.n_skipped} so far: audits "
                    f"took {self._spent:.0f} of {self._elapsed():.0f} seconds, and max_share={self.max_share}."
                )
            turn = (turn or last) and paid
        self._audited_in_this_fit |= turn
        return turn

    def pay(self, seconds: float) -> None:
        """Take note of how long an audit took."""
        self._spent += seconds
        self._longest = max(self._longest, seconds)

    def scalars(self) -> dict[str, float]:
        """Return what is logged at every validation: ``audit/skipped``, if audits may be skipped."""
        return {} if self.max_share is None else {"audit/skipped": float(self.n_skipped)}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        if self.max_share is None:
            return {}
        seconds = {"spent": self._spent, "longest": self._longest, "elapsed": self._elapsed()}
        return {**seconds, "skipped": self.n_skipped, "place": self._place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the run that is resumed; empty if that had no limit."""
        self._spent, self._longest = state.get("spent", 0.0), state.get("longest", 0.0)
        self._before, self.n_skipped = state.get("elapsed", 0.0), state.get("skipped", 0)
        self._place = state.get("place")

    def _elapsed(self) -> float:
        return self._before + time.perf_counter() - self._began

    def _is_paid_for(self, share: float) -> bool:
        return self._spent + self._longest <= share * (self._elapsed() + self._longest)

    def _is_last(self, trainer: Trainer) -> bool:
        """Whether the run ends before as many steps or batches have passed again as since the validation before."""
        place = trainer.global_step, trainer.fit_loop.total_batch_idx + 1
        before, self._place = self._place, place
        if before is None:
            return False
        next_step, next_batch = (2 * now - then for now, then in zip(place, before, strict=True))
        epochs, batches = trainer.max_epochs, trainer.num_training_batches
        by_steps = 0 < trainer.max_steps < next_step
        return by_steps or (epochs is not None and 0 < epochs * batches < next_batch)
