"""Many audits leave no more behind than a few. (Two hundred do not, either: `AUDITS=200`.)"""

import gc
import os
import resource

import torch
from helpers.known_module import DriftingModule, known_audit
from helpers.runs import trainer_with
from lightning.pytorch import Callback


class Weighs(Callback):
    """Counts living tensors, and the process's largest size in MiB, after some of the audits."""

    def __init__(self, every):
        self.every, self.validations, self.tensors, self.sizes = every, 0, [], []

    def on_validation_end(self, trainer, module):
        if trainer.sanity_checking:
            return
        self.validations += 1
        if self.validations % self.every == 0:
            gc.collect()
            self.tensors.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
            self.sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


class Forgetful(DriftingModule):
    """Does not keep the images that it was shown, as its detector does for other tests."""

    def detect(self, images):
        found = super().detect(images)
        self.known.seen.clear()
        return found


def test_memory_is_flat_over_many_audits(tmp_path):
    count = int(os.environ.get("AUDITS", 12))
    audit, weighs = known_audit(max_strips=1), Weighs(every=count // 4)
    trainer = trainer_with([audit, weighs], tmp_path, max_steps=count, val_check_interval=1, num_sanity_val_steps=0)
    trainer.fit(Forgetful())
    assert audit.n_audits == count
    assert len(weighs.tensors) == 4
    assert len(set(weighs.tensors)) == 1
    assert weighs.sizes[-1] - weighs.sizes[0] < 32
