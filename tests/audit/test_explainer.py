"""An audit by any explainer that gives maps of all five numbers."""

from dataclasses import replace

import pytest
import torch
from helpers.known_detectors import LinearDetector, box_sample, two_objects
from helpers.known_module import TWO
from helpers.records import make_record

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.explainer import explainer_of
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.measure import fingerprint
from odsg_lightning.cli import main
from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers import by_name
from odsg_lightning.explainers.gradient import Gradient
from odsg_lightning.explainers.odam import ODAM
from odsg_lightning.explainers.smoothgrad import SmoothGrad
from odsg_lightning.gate import compare
from odsg_lightning.names import EXPLAINERS, PARAMETERS


def test_the_names_are_those_that_can_be_made():
    assert set(EXPLAINERS) == set(by_name.EXPLAINERS)


def test_settings_reach_the_explainer():
    config = AuditConfig(n_samples=3, sigma=0.1, tolerance=0.2, engine="autograd", precision="bf16", trim=0.01)
    assert explainer_of(config) == SmoothGrad(Gradient("autograd", "bf16", 0.01), 3, 0.1, 0.2)
    assert explainer_of(AuditConfig(explainer="gradient")) == Gradient()
    assert explainer_of(AuditConfig(explainer="odam")) == ODAM()
    all_five = explainer_of(AuditConfig(explainer="grad_cam", explainer_settings={"layer": "res5"}))
    assert (all_five.layer, all_five.parameters) == ("res5", PARAMETERS)  # which gives the score's alone by default


def test_trimmed_audits_are_compared_with_their_like_only():
    exact, trimmed, coarser = (fingerprint("0" * 64, AuditConfig(trim=trim)) for trim in (0, 0.001, 0.01))
    assert "trim" not in exact  # as audits from before there was trimming
    assert (trimmed["trim"], coarser["trim"]) == (0.001, 0.01)
    exact_record = make_record(4, 2)
    trimmed_record = replace(exact_record, fingerprint={**exact_record.fingerprint, "trim": 0.001})
    assert compare(trimmed_record, trimmed_record).verdict != "not comparable"
    for pair in ((exact_record, trimmed_record), (trimmed_record, exact_record)):
        result = compare(*pair)
        assert result.verdict == "not comparable"
        assert "The audits differ in trim" in result.reasons[0]


@pytest.mark.parametrize("name", ["d_rise", "contrastive_lrp"])
def test_one_without_maps_of_the_box_is_refused(name):
    with pytest.raises(UserInputError, match="Expected an explainer that gives maps of x_min"):
        explainer_of(AuditConfig(explainer=name))


def test_settings_that_it_does_not_have_are_refused():
    with pytest.raises(UserInputError, match=r"Expected settings of 'odam', any of layer, .*, but got 'colour'"):
        explainer_of(AuditConfig(explainer="odam", explainer_settings={"colour": 1}))
    with pytest.raises(UserInputError, match=r"settings of 'smoothgrad' as arguments \(`n_samples`, `sigma`\)"):
        AuditConfig(explainer_settings={"n_samples": 3})


def test_a_record_says_what_its_maps_depend_on_and_nothing_else():
    of_gradients = {"n_samples", "sigma"}
    first = fingerprint("0" * 64, AuditConfig())
    assert of_gradients <= first.keys()
    assert not [name for name in first if name.startswith("explainer/")]
    odam = fingerprint("0" * 64, AuditConfig(explainer="odam", n_samples=7, precision="bf16", trim=0.01))
    assert odam["explainer"] == "odam"
    assert not odam.keys() & (of_gradients | {"precision", "tolerance", "trim"})
    assert {name: value for name, value in odam.items() if name.startswith("explainer/")} == {
        "explainer/layer": "level",
        "explainer/sign": "positive",
    }
    given = fingerprint("0" * 64, AuditConfig(explainer="odam", explainer_settings={"sign": "abs"}))
    assert given["explainer/sign"] == "abs"


def test_the_explainer_is_asked_for_the_paired_detections(monkeypatch):
    """Of a detector without features: it stands for any explainer."""
    asked = []

    class Fixed(Gradient):
        samples = 2

        def explain(self, detector, image, reference, indices, *, generator, match_iou=0.7, on_sample=lambda: None):
            asked.append((list(indices), match_iou))
            found = super().explain(detector, image, reference, indices, generator=generator, on_sample=on_sample)
            on_sample()
            return found

    monkeypatch.setattr("odsg_lightning.audit.loop.explainer_of", lambda config: Fixed("autograd"))
    seen = []
    base, weights, labels = two_objects()
    detector = LinearDetector(base.float(), weights.float(), labels)
    items = list(
        audit(
            detector,
            [box_sample(TWO, [0, 1]), box_sample([[1, 1, 5, 5]], [2], image_id=2)],
            AuditConfig(occlusion=False),
            on_sample=lambda: seen.append(1),
        )
    )
    assert asked == [([0, 1], 0.7)]
    assert len(seen) == 4  # two of each image, though the second has nothing to explain
    assert [item.missed for item in items] == [False, False, True]
    assert torch.isfinite(items[0].explained.saliency.maps).all()


def test_the_command_line_takes_them(capsys):
    assert main(["audit", "x.ckpt", "--audit-set", "s.json", "-o", "r.json", "--explainer", "lime"]) == 2
    assert "invalid choice: 'lime'" in capsys.readouterr().err
    assert main(["explain", "x.ckpt", "p.png", "--explainer-setting", "layer"]) == 2
    assert "expected NAME=VALUE, but got 'layer'" in capsys.readouterr().err
    command = ["explain", "x.ckpt", "p.png", "--explainer", "odam", "--explainer-setting", "colour=1"]
    assert main(command) == 2
    assert "but got 'colour'" in capsys.readouterr().err
