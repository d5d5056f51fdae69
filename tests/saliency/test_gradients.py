"""Which gradients are used for which detector and engine."""

from functools import partial

import pytest
import torch
from helpers.known_detectors import LinearDetector, two_objects

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.loop import audit
from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.gradient import Gradient
from odsg_lightning.explainers.smoothgrad import SmoothGrad
from odsg_lightning.saliency.gradients import AutogradLinearization, engine_choice, gradient_looks, linearize
from odsg_lightning.saliency.protocol import EngineChoice
from odsg_lightning.saliency.smoothgrad import smoothgrad
from odsg_lightning.types import AuditSample

IMAGE = torch.full((3, 24, 24), 100.0, dtype=torch.float64)


class Own(LinearDetector):
    """Has gradients of its own: those of a detector with other weights, so that they can be told apart."""

    def __init__(self, base, weights, labels):
        super().__init__(base, weights, labels)
        self.asked = []

    def linearize(self, image, *, engine, precision):
        self.asked.append((engine, precision))
        return AutogradLinearization(LinearDetector(self.base, 3 * self.weights, self.labels), image)


def first_gradient(detector, **settings):
    (gradient,) = linearize(detector, IMAGE, **settings).gradients([0])
    return gradient.values


@pytest.mark.parametrize("engine", ["auto", "windowed", "cut"])
@pytest.mark.parametrize("precision", ["full", "bf16"])
def test_a_detectors_own_gradients_get_engine_and_precision(engine, precision):
    base, weights, labels = two_objects()
    detector = Own(base, weights, labels)
    torch.testing.assert_close(first_gradient(detector, engine=engine, precision=precision), 3 * weights[0])
    assert detector.asked == [(engine, precision)]


@pytest.mark.parametrize("engine", ["batched", "autograd"])
def test_autograd_never_asks_the_detector(engine):
    base, weights, labels = two_objects()
    detector = Own(base, weights, labels)
    torch.testing.assert_close(first_gradient(detector, engine=engine), weights[0])
    assert detector.asked == []


@pytest.mark.parametrize("engine", ["auto", "batched", "autograd"])
def test_a_detector_without_gradients_of_its_own_gets_autograd(engine):
    base, weights, labels = two_objects()
    detector = LinearDetector(base, weights, labels)
    torch.testing.assert_close(first_gradient(detector, engine=engine), weights[0])


@pytest.mark.parametrize("engine", ["windowed", "cut"])
def test_a_fast_engine_for_a_detector_that_has_none_is_refused(engine):
    message = f"'auto', 'batched' or 'autograd' for a detector without .*, but got '{engine}': LinearDetector has no"
    with pytest.raises(UserInputError, match=message):
        linearize(LinearDetector(*two_objects()), IMAGE, engine=engine)


class Choosing(Own):
    """Says beforehand which engine it will use."""

    def choose_engine(self, engine="auto", precision="full"):
        return EngineChoice("cut", precision, f"{engine} was asked for")


def test_the_choice_is_known_beforehand_and_why():
    plain, own, choosing = (kind(*two_objects()) for kind in (LinearDetector, Own, Choosing))
    assert engine_choice(plain) == EngineChoice(
        "autograd", "full", "plain autograd: LinearDetector has no gradients of its own"
    )
    assert engine_choice(own, "windowed", "bf16") == EngineChoice("windowed", "bf16", "gradients of Own's own")
    assert engine_choice(choosing, "auto", "bf16") == EngineChoice("cut", "bf16", "auto was asked for")
    for detector in (plain, own, choosing):
        assert engine_choice(detector, "batched").name == "batched"
    for detector in (own, choosing):
        assert engine_choice(detector, "autograd", "bf16") == EngineChoice(
            "autograd", "full", "plain autograd, as asked for"
        )
    assert own.asked == choosing.asked == []


def test_unknown_names():
    detector = Own(*two_objects())
    with pytest.raises(
        UserInputError, match=r"`engine` to be one of \('auto', 'windowed', 'cut', 'batched', 'autograd'\), but got 'fa"
    ):
        linearize(detector, IMAGE, engine="fast")
    with pytest.raises(UserInputError, match=r"`precision` to be one of \('full', 'bf16'\), but got 'fp16'"):
        linearize(detector, IMAGE, precision="fp16")
    assert detector.asked == []


@pytest.mark.parametrize("trim", [-0.001, 0.1, float("nan"), True, "0.01"])
def test_a_share_out_of_range(trim):
    with pytest.raises(UserInputError, match=r"`trim` to be a number in \[0, 0.1\), but got "):
        linearize(Own(*two_objects()), IMAGE, trim=trim)


class Trimming(Own):
    """Knows of trimming, and says what it dropped: more in each sample."""

    def linearize(self, image, *, engine, precision, trim=0.0):
        known, share = super().linearize(image, engine=engine, precision=precision), trim * len(self.asked)

        class Told:
            detections = known.detections

            def gradients(self, indices):
                return (gradient._replace(dropped=share) for gradient in known.gradients(indices))

        return Told()


def test_trimming_is_asked_for_only_where_it_is_wanted_and_what_it_drops_reaches_the_maps():
    assert first_gradient(Own(*two_objects())) is not None  # one that has never heard of it
    detector = Trimming(*two_objects())
    assert engine_choice(detector, trim=0.01) == EngineChoice("auto", "full", "gradients of Trimming's own", 0.01)
    assert engine_choice(detector, "autograd", trim=0.01).trim == 0
    with torch.no_grad():
        (reference,) = detector.detect([IMAGE])
    (found,) = Gradient(trim=0.01).explain(detector, IMAGE, reference, [0], generator=torch.Generator())
    assert found.dropped == 0.01
    smooth = SmoothGrad(Gradient(trim=0.01), n_samples=3)
    (found,) = smooth.explain(detector, IMAGE, reference, [1], generator=torch.Generator())
    assert found.dropped == 0.04  # the largest of the second to the fourth
    (found,) = SmoothGrad(n_samples=3).explain(detector, IMAGE, reference, [1], generator=torch.Generator())
    assert found.dropped == 0


def test_smoothgrad_and_the_audit_pass_both_on():
    detector = Own(*two_objects())
    with torch.no_grad():
        (reference,) = detector.detect([IMAGE])
    generator = torch.Generator().manual_seed(0)
    look = partial(gradient_looks, engine="cut", precision="bf16")
    smoothgrad(detector, IMAGE, reference, [0], generator=generator, n_samples=2, look=look)
    assert detector.asked == [("cut", "bf16")] * 2
    boxes = reference.boxes.round().float()
    sample = AuditSample(IMAGE, boxes, reference.labels, torch.ones(2, 24, 24, dtype=torch.bool), 1, (1, 2))
    list(audit(detector, [sample], AuditConfig(n_samples=1, score_threshold=0, engine="windowed")))
    assert detector.asked[2:] == [("windowed", "full")]
