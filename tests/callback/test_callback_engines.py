"""What the callback says of the engine that runs, and what it passes on."""

import logging
import warnings
from dataclasses import replace

import pytest
import torch
from helpers.known_detectors import LinearDetector, box_sample
from helpers.known_module import SelfDetectingModule
from helpers.runs import module_like, quick_audit, shapes_data, trainer_with
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from odsg_lightning import ODSmoothGradCallback
from odsg_lightning.saliency.gradients import AutogradLinearization
from odsg_lightning.saliency.protocol import EngineChoice
from odsg_lightning.types import Detections

BOX = [2, 2, 12, 12]


class PlainModule(SelfDetectingModule):
    """One object, with plain autograd."""

    def __init__(self):
        weights = 1e-6 * torch.randn(1, 5, 3, 24, 24, generator=torch.Generator().manual_seed(0))
        super().__init__(LinearDetector(torch.tensor([[*BOX, 0.95]]), weights, torch.tensor([0])))


class EngineModule(PlainModule):
    """Has engines of its own; which one serves is up to the test."""

    def __init__(self, *choices):
        super().__init__()
        self.choices = [EngineChoice(*choice) for choice in choices or [("windowed", "full", "a ResNet with an FPN")]]
        self.asked, self.linearized = [], []

    def choose_engine(self, engine, precision):
        self.asked.append((engine, precision, self.training))
        return self.choices[min(len(self.asked), len(self.choices)) - 1]

    def linearize(self, image, *, engine, precision):
        self.linearized.append((engine, precision))
        return AutogradLinearization(self.known, image)


def engine_audit(**settings):
    return ODSmoothGradCallback(
        **({"audit_samples": [box_sample([BOX], [0])], "n_samples": 2, "blur_sigma": 0} | settings)
    )


def messages(module, caplog, entry="fit", trainer_settings=(), **settings):
    """What a run with two audits says of engines: its log lines and its warnings."""
    trainer = trainer_with([engine_audit(**settings)], **dict(trainer_settings))
    options = {} if entry == "fit" else {"verbose": False}
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        getattr(trainer, entry)(module, **options)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    told = [str(warning.message) for warning in warned]
    return [line for line in lines if "engine=" in line], [line for line in told if "engine=" in line], trainer


WINDOWED = "ODSmoothGrad audits with engine='windowed', precision='full': a ResNet with an FPN"


@pytest.mark.parametrize("entry", ["fit", "validate", "test"])
@pytest.mark.parametrize("engine", ["auto", "windowed"])
def test_what_runs_as_asked_is_said_once(entry, engine, caplog):
    module = EngineModule()
    assert messages(module, caplog, entry, engine=engine)[:2] == ([WINDOWED], [])
    assert module.asked[0] == (engine, "full", False)  # in eval mode
    assert set(module.linearized) == {(engine, "full")}


def test_the_message_reaches_the_terminal_as_lightnings_own(caplog):
    messages(EngineModule(), caplog)
    (record,) = [record for record in caplog.records if "engine=" in record.getMessage()]
    assert record.name.startswith(("lightning.", "pytorch_lightning."))  # loggers that Lightning has given a handler


def test_an_engine_that_cannot_be_had_is_warned_of_once(caplog):
    module = EngineModule(("cut", "full", "the backbone is no ResNet"))
    lines, told, _ = messages(module, caplog, engine="windowed")
    assert lines == []
    assert told == [
        "ODSmoothGrad audits with engine='cut', precision='full', where engine='windowed', precision='full' was asked "
        "for: the backbone is no ResNet"
    ]


def test_bf16_is_called_approximate(caplog):
    module = EngineModule(("windowed", "bf16", "as asked"))
    lines, told, _ = messages(module, caplog, precision="bf16")
    assert lines == ["ODSmoothGrad audits with engine='windowed', precision='bf16' (approximate): as asked"]
    assert told == []
    assert set(module.linearized) == {("auto", "bf16")}


class TrimmingModule(EngineModule):
    """Has an engine that trims; its gradients are exact all the same."""

    def choose_engine(self, engine, precision, trim=0.0):
        return replace(super().choose_engine(engine, precision), trim=trim)

    def linearize(self, image, *, engine, precision, trim=0.0):
        linearization, dropped = super().linearize(image, engine=engine, precision=precision), 2 * trim
        known = linearization.gradients
        linearization.gradients = lambda indices: (one._replace(dropped=dropped) for one in known(indices))
        return linearization


def test_trimming_is_called_approximate_and_says_what_it_costs(caplog):
    lines, told, trainer = messages(TrimmingModule(), caplog, trim=0.01)
    assert lines == [
        "ODSmoothGrad audits with engine='windowed', precision='full', trim=0.01 (approximate): a ResNet with an FPN"
    ]
    assert told == []
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("audit/trim")}
    assert logged == pytest.approx({"audit/trim_dropped": 0.02, "audit/trim_correlation": 1, "audit/trim_iof": 0})


def test_an_exact_audit_has_no_values_of_trimming_and_one_that_found_nothing_has_nan():
    module = TrimmingModule()
    module.known.base[0, 4] = 0.1
    for trim in (0.0, 0.01):
        trainer = trainer_with([engine_audit(trim=trim)])
        trainer.fit(module)
        logged = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("audit/trim")}
        assert len(logged) == (3 if trim else 0)
        assert all(value.isnan() for value in logged.values())


def test_trimming_that_cannot_be_had_is_warned_of(caplog):
    lines, (told,), _ = messages(PlainModule(), caplog, trim=0.01)
    assert lines == []
    assert "precision='full', where engine='auto', precision='full', trim=0.01 was asked for: plain autograd" in told


@pytest.mark.parametrize(
    ("module", "engine"),
    [(PlainModule(), "auto"), (EngineModule(("cut", "full", "why")), "cut"), (EngineModule(), "autograd")],
)
def test_bf16_that_cannot_be_had_is_warned_of(module, engine, caplog):
    lines, told, _ = messages(module, caplog, engine=engine, precision="bf16")
    assert lines == []
    assert len(told) == 1
    assert "precision='full', where" in told[0]


def test_a_choice_that_changes_is_said_again(caplog):
    choices = [("windowed", "full", "one"), ("cut", "full", "a layer was replaced")]
    # Asked before the fit, and at each audit: the second and the third agree.
    lines, told, _ = messages(EngineModule(*choices), caplog)
    assert [line.split(": ")[1] for line in lines] == ["one", "a layer was replaced"]
    assert told == []


def test_plain_autograd_says_so(caplog):
    lines, _, trainer = messages(PlainModule(), caplog)
    assert lines == [
        "ODSmoothGrad audits with engine='autograd', precision='full': plain autograd: PlainModule has no gradients of "
        "its own"
    ]
    assert trainer.callback_metrics["audit/n_failed"] == 0


def test_autograd_as_asked_for_asks_nobody(caplog):
    module = EngineModule()
    lines, _, _ = messages(module, caplog, engine="autograd")
    assert lines == ["ODSmoothGrad audits with engine='autograd', precision='full': plain autograd, as asked for"]
    assert module.asked == module.linearized == []


def test_gradients_of_its_own_without_a_choice(caplog):
    class Linearizes(PlainModule):
        def linearize(self, image, *, engine, precision):
            return AutogradLinearization(self.known, image)

    lines, _, trainer = messages(Linearizes(), caplog, engine="cut")
    assert lines == ["ODSmoothGrad audits with engine='cut', precision='full': gradients of Linearizes's own"]
    assert trainer.callback_metrics["audit/n_failed"] == 0


@pytest.mark.parametrize("engine", ["windowed", "cut"])
def test_a_fast_engine_for_a_plain_detector_is_refused_before_training(engine):
    module = PlainModule()
    message = f"but got '{engine}': PlainModule has no method `linearize`. engine='auto' takes plain autograd for it"
    with pytest.raises(MisconfigurationException, match=message):
        trainer_with([engine_audit(engine=engine)]).fit(module)
    assert module.number == 1
    assert module.known.seen == []


def test_asking_leaves_no_trace_and_its_failure_ends_nothing(caplog):
    class Breaks(EngineModule):
        def choose_engine(self, engine, precision):
            torch.rand(1)
            self.register_forward_hook(lambda *_: None)
            self.number.requires_grad_(True)
            raise ArithmeticError("no idea")

    def run(callbacks):
        torch.manual_seed(0)
        module = Breaks()
        trainer = trainer_with(callbacks, enable_progress_bar=False)
        trainer.fit(module)
        return module, trainer, torch.get_rng_state()

    with pytest.warns(
        UserWarning, match="engine='auto', precision='full' was asked for: asking .* ArithmeticError: no i"
    ):
        audited, trainer, state = run([engine_audit()])
    assert (trainer.global_step, trainer.callback_metrics["audit/n_failed"]) == (4, 0)
    plain, _, expected = run([])
    assert torch.equal(state, expected)
    assert torch.equal(audited.number, plain.number)
    assert len(audited._forward_hooks) == 0
    _, told, _ = messages(Breaks(), caplog)
    assert len(told) == 1


class TestSamplesPerObject:
    def test_is_the_number_of_noise_samples_that_were_made(self):
        for tolerance, expected in ((None, 6), (1e-6, 3)):  # the known maps are the same in every noise sample
            trainer = trainer_with([engine_audit(n_samples=6, tolerance=tolerance)])
            trainer.fit(PlainModule())
            assert trainer.callback_metrics["audit/samples_per_object"] == expected
            assert trainer.callback_metrics["audit/match_rate"] == 1

    def test_is_the_mean_over_the_objects_found(self):
        module = PlainModule()
        one = module.known
        lost = torch.tensor([[14, 14, 22, 22, 0.95]])
        twice = LinearDetector(
            torch.cat([one.base, lost]), torch.cat([one.weights, 0 * one.weights]), torch.tensor([0, 1])
        )
        module.known = twice
        sample = box_sample([BOX, [14, 14, 22, 22], [0, 0, 2, 2]], [0, 1, 2])
        trainer = trainer_with([engine_audit(audit_samples=[sample], n_samples=6, tolerance=1e-6)])
        trainer.fit(module)
        assert trainer.callback_metrics["audit/n_undefined"] == 5
        assert trainer.callback_metrics["audit/samples_per_object"] == 4.5  # 3, and 6 for the object without a gradient

    def test_counts_noise_samples_that_did_not_find_the_object_again(self):
        class Loses(PlainModule):
            def detect(self, images):
                return [
                    Detections(found.boxes + 100, found.scores, found.labels) if bool((image != 128).any()) else found
                    for image, found in zip(images, super().detect(images), strict=True)
                ]

        trainer = trainer_with([engine_audit(n_samples=6)])
        trainer.fit(Loses())
        assert trainer.callback_metrics["audit/match_rate"] == 0
        assert trainer.callback_metrics["audit/samples_per_object"] == 6

    def test_is_nan_without_any(self):
        module = PlainModule()
        module.known.base[0, 4] = 0.1
        trainer = trainer_with([engine_audit()])
        trainer.fit(module)
        assert trainer.callback_metrics["audit/samples_per_object"].isnan()


class TestState:
    OLD = (  # written before there were engines
        "ODSmoothGradCallback{'every_n_validations': 1, 'method': 'smoothgrad', 'n_samples': 2, 'sigma': 0.05, "
        "'match_iou': 0.7, 'pair_iou': 0.5, 'score_threshold': 0.9, 'blur_sigma': 0, 'threshold': 0.32, 'seed': 0, "
        "'max_objects_per_image': None}"
    )

    @pytest.mark.parametrize("engine", ["auto", "windowed", "cut", "autograd"])
    def test_key_is_the_old_one_whatever_the_engine(self, engine):
        assert engine_audit(engine=engine, score_threshold=0.9).state_key == self.OLD

    def test_what_changes_the_numbers_is_in_the_key(self):
        keys = {
            engine_audit(**settings).state_key
            for settings in (
                {},
                {"tolerance": 0.01},
                {"tolerance": 0.02},
                {"precision": "bf16"},
                {"trim": 0.01},
            )
        }
        assert len(keys) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"engine": "fast"},
            r"`engine` to be one of \('auto', 'windowed', 'cut', 'batched', 'autograd'\), but got 'fast'",
        ),
        ({"precision": "16"}, r"`precision` to be one of \('full', 'bf16'\), but got '16'"),
        ({"tolerance": 2.0}, "`tolerance` to be None or between 0 and 1, but got 2.0"),
        ({"trim": 0.5}, r"`trim` to be a number in \[0, 0.1\), but got 0.5"),
    ],
)
def test_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        ODSmoothGradCallback(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn"])
@pytest.mark.parametrize("engine", ["auto", "cut", "autograd"])
def test_real_detector_logs_the_same_numbers_with_every_engine(engine, kind, request, shapes_folder, caplog):
    model = request.getfixturevalue(f"trained_{kind}").model
    logged = []
    for asked in ("autograd", engine):
        trainer = trainer_with([quick_audit(engine=asked)])
        with caplog.at_level(logging.INFO):
            (found,) = trainer.validate(module_like(model), shapes_data(shapes_folder, audit_images=2), verbose=False)
        logged.append({name: value for name, value in found.items() if name.startswith(("iof/", "audit/"))})
        del logged[-1]["audit/seconds"]
    assert logged[0]["audit/recall"] > 0
    assert logged[1] == pytest.approx(logged[0], abs=0.01, nan_ok=True)
    said = [
        record.getMessage() for record in caplog.records if "ODSmoothGrad audits with engine=" in record.getMessage()
    ]
    assert len(said) == 2
