"""Sums up the audited objects, over all processes, into the scalars that are logged."""

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from odsg_lightning.audit.loop import AuditedObject
from odsg_lightning.metrics.iof import IntersectionOverForeground
from odsg_lightning.names import IOF_NAMES, PARAMETERS, SUMMARY_NAMES

_COUNTS = ("objects", "paired", "undefined", "matched", "passes")


class AuditTally:
    """The running sums of one audit in this process.

    Args:
        blur_sigma: see :class:`~odsg_lightning.metrics.iof.IntersectionOverForeground`.
        threshold: see there.
    """

    def __init__(self, blur_sigma: float, threshold: float) -> None:
        """See the class for the arguments."""
        self.iof = IntersectionOverForeground(blur_sigma, threshold)
        self._counts = torch.zeros(len(_COUNTS))

    def restart(self, device: torch.device) -> None:
        """Forget everything, and go on on this device."""
        self.iof.reset()
        self.iof.to(device)
        self._counts = torch.zeros(len(_COUNTS), device=device)

    def add(self, found: AuditedObject) -> None:
        """Count one object, and measure its maps if it has any."""
        mask = found.mask[None].to(self._counts.device)
        if found.saliency is None:
            own = [1, 0, 0, 0, 0]
            # An update without objects: torchmetrics warns of an audit that never updates.
            self.iof.update(torch.zeros(0, len(PARAMETERS), *mask.shape[1:], device=mask.device), mask[:0])
        else:
            undefined = int((~found.saliency.defined).sum())
            own = [1, 1, undefined, found.saliency.matched_passes, found.saliency.n_samples]
            self.iof.update(found.saliency.maps[None], mask)
        # Not in place: where trainer.validate restarts, the sums are inference tensors.
        self._counts = self._counts + torch.tensor(own, device=mask.device)

    def scalars(self, strategy: Strategy) -> dict[str, Tensor]:
        """Return the values of all processes together. Every process must call it."""
        means = self.iof.compute()
        return _named(means, torch.as_tensor(strategy.reduce(self._counts, reduce_op="sum")))

    def undefined(self) -> dict[str, Tensor]:
        """Return NaN under every name: the values of an audit that failed."""
        nan = torch.full_like(self._counts, torch.nan)
        return _named(dict.fromkeys((*IOF_NAMES, *SUMMARY_NAMES), nan[0]), nan)


def _named(means: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
    objects, paired, undefined, matched, passes = counts
    return {f"iof/{name}": value for name, value in means.items()} | {
        "audit/coverage": paired / objects,
        "audit/n_objects": objects,
        "audit/n_undefined": undefined,
        "audit/match_rate": matched / passes,  # 0 / 0 is NaN: nothing was detected
        "audit/samples_per_object": passes / paired,
    }
