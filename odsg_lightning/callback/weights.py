"""Which weights an audit sees: the training's own, or an average of them; and whether the validation saw the same."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from odsg_lightning.callback.packages import lightning_classes

_SAMPLED = 8


class ValidatedWeights:
    """Says whether weights were exchanged between an evaluation's first batch and the audit at its end."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._seen: Tensor | None = None
        self._warned = False

    def see(self, module: LightningModule, *position: int) -> None:
        """Remember the weights, if this is an evaluation's first batch.

        Args:
            module: about to be evaluated.
            position: of the batch, and of its data loader.
        """
        if not any(position):
            self._seen = _sample(module)

    def describe(self, trainer: Trainer, module: LightningModule) -> str:
        """Return which weights are audited now, for the record; warn once if they are not those that were validated.

        Args:
            trainer: at the end of its evaluation.
            module: about to be audited.
        """
        seen, self._seen = self._seen, None
        if seen is not None and not torch.equal(seen, _sample(module)):
            if not self._warned:
                self._warned = True
                rank_zero_warn(
                    "The weights at the end of this validation, which the audit explains, are not those of its first "
                    "batch: a callback has exchanged them, as one does that validates an average and takes it back. "
                    "Put ODSmoothGradCallback before it in the Trainer's callbacks."
                )
            return "other than validated"
        if trainer.state.fn != TrainerFn.FITTING:
            return "as given"
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set by another object
        averaging = [one for one in callbacks if isinstance(one, lightning_classes("callbacks.WeightAveraging"))]
        return " and ".join(f"averaged by {type(one).__name__}" for one in averaging) or "as trained"


def _sample(module: LightningModule) -> Tensor:
    """Return the bits of a few numbers of each parameter: NaN is equal to itself there.

    They come from the device together: each transfer would wait for it.
    """
    some = [parameter.detach().flatten()[:_SAMPLED] for parameter in module.parameters()]
    return torch.cat(some).cpu().double().view(torch.int64) if some else torch.empty(0)
