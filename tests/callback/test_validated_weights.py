"""The weights that an audit sees are those that the validation saw, or it says so."""

import warnings

import pytest
import torch
from helpers.known_module import DriftingModule, known_audit
from helpers.runs import trainer_with
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging

from odsg_lightning.records.record import read_record


class OwnAverage(Callback):
    """Validates other weights than those of the training, as trainers with an average of their own do."""

    def on_validation_epoch_start(self, trainer, module):
        self.exchange(module)

    def on_validation_epoch_end(self, trainer, module):
        self.exchange(module)

    def exchange(self, module):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.neg_()


def audited(folder, callbacks):
    """Return what each record says of its weights, and the warnings that came."""
    module = DriftingModule()
    trainer = trainer_with(callbacks, folder)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer.fit(module)
    records = [read_record(path) for path in sorted(folder.rglob("audits/*.json"))]
    assert len(records) > 1
    return {record.provenance["weights"] for record in records}, [
        str(one.message) for one in said if "are not those of its first batch" in str(one.message)
    ]


def audit():
    return known_audit(save_records=True, drift=False)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (None, "as trained"),
        (EMAWeightAveraging, "averaged by EMAWeightAveraging"),
        (
            lambda: StochasticWeightAveraging(1e-2, swa_epoch_start=1),
            "as trained",
        ),  # it puts its average in when training has ended
        (OwnAverage, "as trained"),  # what it validates is what the audit sees, under whatever name
    ],
)
def test_a_record_says_which_weights_were_audited(tmp_path, after, expected):
    assert audited(tmp_path, [audit(), *([after()] if after else [])]) == ({expected}, [])


def test_an_average_that_was_taken_back_before_the_audit_is_warned_of_once(tmp_path):
    weights, said = audited(tmp_path, [OwnAverage(), audit()])
    assert weights == {"other than validated"}
    assert len(said) == 1
    assert "Put ODSmoothGradCallback before it" in said[0]


def test_weights_that_are_not_a_number_are_the_same(tmp_path):
    class Lost(DriftingModule):
        def on_validation_start(self):
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.fill_(torch.nan)

    trainer = trainer_with([known_audit(drift=False)], tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*are not those of its first batch")
        trainer.fit(Lost())
