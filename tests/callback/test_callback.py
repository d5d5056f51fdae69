import io
import math
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers.known_detectors import box_sample
from helpers.known_module import HIDDEN, TWO, DriftingModule, KnownModule, known_audit
from helpers.runs import EVERY_TAG, module_like, quick_audit, read_events, shapes_data, trainer_with
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image

from odsg_lightning import ODSmoothGradCallback
from odsg_lightning.audit import loop
from odsg_lightning.audit.measure import measured


class FailingModule(KnownModule):
    """Fails in the middle of its second audit."""

    calls = 0

    def detect(self, images):
        self.calls += 1
        # An audit of one image and two noise samples calls three times, then once with all that has hidden pixels; and
        # three times again under another seed.
        if self.calls == 9:
            raise ArithmeticError("the detector broke")
        return super().detect(images)


class TestKnownNumbers:
    """The logged values of a detector whose saliency is known."""

    def test_every_scalar_and_image_at_the_right_step(self, tmp_path):
        trainer_with([known_audit()], tmp_path).fit(KnownModule())
        events = read_events(tmp_path)
        tags = {tag for tag in events.Tags()["scalars"] if not tag.startswith(("val/", "epoch", "audit/recall/"))}
        assert tags == EVERY_TAG
        steps = [event.step for event in events.Scalars("val/own")]  # where Lightning puts what the module logs
        assert steps == [1, 3]
        for tag in EVERY_TAG:
            assert [event.step for event in events.Scalars(tag)] == steps, tag
        images = events.Tags()["images"]
        assert images == ["saliency/image_1/annotation_1", "saliency/image_1/annotation_2"]
        for tag in images:
            assert [event.step for event in events.Images(tag)] == steps
            picture = np.asarray(Image.open(io.BytesIO(events.Images(tag)[0].encoded_image_string)))
            assert picture.dtype == np.uint8
            assert picture.shape[2] == 3

    def test_values(self, tmp_path):
        audit = known_audit()
        trainer = trainer_with([audit])
        trainer.fit(KnownModule())
        logged = trainer.callback_metrics
        assert audit.iof.per_object().shape == (2, 22)  # of the last audit alone
        assert audit.iof.compute()["object"] == logged["iof/object"]
        for parameter in ("x_min", "y_min", "x_max", "y_max"):
            found = [logged[f"iof/{parameter}/{region}"] for region in ("edge", "middle", "opposite", "object", "near")]
            assert found == [1, 0, 0, 1, 1]
        assert (logged["iof/score/object"], logged["iof/score/near"]) == (1, 1)
        assert (logged["iof/object"], logged["iof/edge"], logged["iof/middle"], logged["iof/near"]) == (1, 1, 0, 1)
        # The foreground of a box map is a side of its object: 10 of 100 pixels, 12 of 144; wholly on the object.
        assert logged["maps/area_ratio"] == pytest.approx((10 / 100 + 12 / 144) / 2, abs=1e-6)
        assert (logged["maps/relevance_mass"], logged["maps/pointing_game"]) == (1, 1)
        # The first of 10 columns or rows, and of 12, in all four maps; a third of 10 has 3 or 4 of them.
        assert logged["position/mean"] == pytest.approx((0.5 / 10 + 0.5 / 12) / 2, abs=1e-6)
        assert 2.5 <= logged["enrichment/edge"] <= 10 / 3
        assert (logged["enrichment/middle"], logged["enrichment/x_max/opposite"]) == (0, 0)
        # Its gradient is tiny, so it detects the same whatever is hidden.
        assert (logged["occlusion/sufficiency"], logged["occlusion/necessity"]) == (1, 0)
        assert (logged["audit/recall"], logged["audit/n_objects"], logged["audit/match_rate"]) == (1, 2, 1)
        assert (logged["audit/n_undefined"], logged["audit/n_failed"]) == (0, 0)
        assert logged["audit/seconds"] > 0

    def test_missed_object_lowers_recall_and_keeps_its_picture(self, tmp_path):
        trainer = trainer_with([known_audit()], tmp_path)
        trainer.fit(KnownModule(scores=(0.95, 0.5)))
        assert trainer.callback_metrics["audit/recall"] == 0.5
        assert trainer.callback_metrics["iof/object"] == 1
        assert len(read_events(tmp_path).Tags()["images"]) == 2

    def test_zero_map_is_counted_as_undefined(self):
        module = KnownModule()
        module.known.weights[0, 2] = 0
        trainer = trainer_with([known_audit()])
        trainer.fit(module)
        assert trainer.callback_metrics["audit/n_undefined"] == 1
        assert trainer.callback_metrics["audit/defined"] == pytest.approx(0.9)
        assert trainer.callback_metrics["iof/x_max/object"] == 1  # of the other object

    def test_nothing_detected_is_nan_but_logged(self):
        trainer = trainer_with([known_audit()])
        trainer.fit(KnownModule(scores=(0.1, 0.1)))
        assert trainer.callback_metrics["audit/recall"] == 0
        assert trainer.callback_metrics["iof/object"].isnan()
        assert trainer.callback_metrics["audit/match_rate"].isnan()
        undefined = {name for name in EVERY_TAG if not name.startswith(("audit/", "drift"))} | {"audit/defined"}
        assert all(trainer.callback_metrics[name].isnan() for name in undefined)

    def test_without_occlusion_nothing_is_hidden_and_nothing_of_it_logged(self):
        module = KnownModule()
        trainer = trainer_with([known_audit(occlusion=False, drift=False)])
        trainer.validate(module, verbose=False)
        logged = trainer.callback_metrics.keys()
        assert EVERY_TAG - logged == {name for name in EVERY_TAG if name.startswith(("drift", "occlusion/"))}
        assert len(module.known.seen) == 3  # the image and its noise samples

    def test_settings_of_near_and_of_what_is_hidden_are_those_of_the_audit(self):
        settings = {"near_threshold": 0.6, "near_margin": 0.3, "sufficiency_margin": 0.05, "necessity_margin": 0.25}
        config = known_audit(**settings).config
        assert {name: getattr(config, name) for name in settings} == settings
        assert config.occlusion


def bits(values):
    """The values as they are, so that NaN equals itself."""
    return values.view(torch.int32).tolist()


class TestValuesOfEachObject:
    """``callback.iof`` has what was measured, not the rows of a record, which are rounded."""

    @pytest.fixture
    def given(self, monkeypatch):
        """What :func:`measured` returned, in the order of its calls."""
        found = []

        def noted(*arguments, **more):
            found.append(measured(*arguments, **more))
            return found[-1]

        monkeypatch.setattr(loop, "measured", noted)
        return found

    def test_are_those_that_were_measured_bit_for_bit(self, given):
        module = DriftingModule()
        audit = known_audit(drift=False)
        trainer_with([audit]).validate(module, verbose=False)
        assert len(given) == 2
        values = torch.stack([detected.iof for detected in given])
        assert bits(audit.iof.per_object()) == bits(values)
        assert bits(values.double().round(decimals=6).float()) != bits(values)  # the check would see rounding

    def test_are_in_the_order_of_the_keys_and_nan_where_a_map_is_undefined(self, given):
        module = KnownModule()
        module.known.weights[0, 2] = 0
        samples = [box_sample(TWO, [0, 1], image_id=number, first_annotation=10 * number) for number in (2, 1)]
        audit = known_audit(audit_samples=samples, drift=False)
        trainer_with([audit]).validate(module, verbose=False)
        second, first = torch.stack([detected.iof for detected in given]).split(2)
        assert bits(audit.iof.per_object()) == bits(torch.cat([first, second]))
        assert audit.iof.per_object().isnan().sum() == 2 * 5  # x_max of the first object of each image

    def test_are_none_if_nothing_is_detected(self, given):
        audit = known_audit()
        trainer_with([audit]).validate(KnownModule(scores=(0.1, 0.1)), verbose=False)
        assert given == []
        assert audit.iof.per_object().shape == (0, 22)


class TestCadence:
    def audited(self, folder):
        """Which validations were audited, counted from 0."""
        events = read_events(folder)
        validations = sorted(event.step for event in events.Scalars("val/own"))
        return sorted(validations.index(event.step) for event in events.Scalars("iof/object"))

    def test_first_validation_then_every_nth(self, tmp_path):
        trainer_with([known_audit(every_n_validations=3)], tmp_path, max_steps=8, val_check_interval=1).fit(
            KnownModule()
        )
        assert self.audited(tmp_path) == [0, 3, 6]

    def test_sanity_check_is_not_audited(self, tmp_path):
        audit = known_audit()
        module = KnownModule()
        trainer_with([audit], max_steps=1, val_check_interval=5, num_sanity_val_steps=2).fit(module)
        assert module.known.seen == []
        assert audit.n_validations == 0

    def test_survives_a_resume(self, tmp_path):
        def run(max_steps, checkpoint=None):
            trainer = trainer_with(
                [known_audit(every_n_validations=3)], tmp_path, max_steps=max_steps, val_check_interval=1
            )
            trainer.fit(KnownModule(), ckpt_path=checkpoint)
            trainer.save_checkpoint(tmp_path / "last.ckpt")

        run(2)
        run(5, tmp_path / "last.ckpt")
        assert self.audited(tmp_path) == [0, 2, 3]  # 2 is the first after resuming

    @pytest.mark.parametrize("entry", ["validate", "test"])
    def test_validate_and_test_are_always_audited(self, entry):
        trainer = trainer_with([known_audit(every_n_validations=5)])
        for _ in range(2):
            getattr(trainer, entry)(KnownModule(), verbose=False)
            assert trainer.callback_metrics["iof/object"] == 1

    def test_fast_dev_run_is_one_image_and_one_sample_without_files(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        module = KnownModule()
        samples = [box_sample(TWO, [0, 1], image_id=number, first_annotation=10 * number) for number in (1, 2, 3)]
        trainer_with([known_audit(audit_samples=samples, n_samples=20)], fast_dev_run=True, logger=None).fit(module)
        # The clean image, one noise sample, and what has hidden pixels of two objects.
        assert len(module.known.seen) == 2 + 2 * HIDDEN
        assert list(tmp_path.iterdir()) == []


class SeesLess(KnownModule):
    """Detects nothing where more than half of the image was changed: less and less, the longer it trains."""

    def detect(self, images):
        return [found if len(images) == 1 or self.number > 0.75 else found[[]] for found in super().detect(images)]

    def training_step(self, batch, _):
        return self.number * 1.0  # 0.1 less each step


class TestMonitors:
    @pytest.mark.parametrize(
        "name", ["occlusion/sufficiency", "occlusion/necessity", "iof/near", "maps/area_ratio", "audit/defined"]
    )
    def test_new_names_are_there_from_the_first_validation_on(self, name, tmp_path):
        keep = ModelCheckpoint(tmp_path, monitor=name, mode="max")
        stop = EarlyStopping(name, mode="max", patience=9, check_finite=False)
        trainer = trainer_with([known_audit(), keep, stop], enable_checkpointing=True)
        trainer.fit(KnownModule())
        assert (trainer.global_step, keep.best_model_score) == (4, trainer.callback_metrics[name])

    def test_the_detector_with_the_best_sufficiency_is_kept(self, tmp_path):
        keep = ModelCheckpoint(tmp_path, monitor="occlusion/sufficiency", mode="max", filename="best")
        stop = EarlyStopping("occlusion/sufficiency", mode="max", patience=1, check_finite=False)
        trainer = trainer_with([known_audit(drift=False), keep, stop], enable_checkpointing=True, max_steps=20)
        trainer.fit(SeesLess())
        assert keep.best_model_score == 1
        assert trainer.callback_metrics["occlusion/sufficiency"] == 0
        assert trainer.global_step == 4

    def test_model_checkpoint_keeps_the_best_iof(self, tmp_path):
        keep = ModelCheckpoint(
            tmp_path, "{step}-{iof/object:.2f}", monitor="iof/object", mode="max", auto_insert_metric_name=False
        )
        trainer_with([known_audit(), keep], enable_checkpointing=True).fit(KnownModule())
        assert keep.best_model_score == 1
        assert [path.name for path in tmp_path.iterdir()] == ["2-1.00.ckpt"]

    def test_early_stopping_on_iof(self):
        stop = EarlyStopping("iof/object", mode="max", patience=2, check_finite=False)
        trainer = trainer_with([known_audit(), stop], max_steps=20, val_check_interval=1)
        trainer.fit(KnownModule())
        assert trainer.global_step == 3  # 1.0 three times: no improvement twice

    @pytest.mark.parametrize("name", ["iof/object", "occlusion/necessity", "maps/pointing_game"])
    def test_early_stopping_that_would_stop_on_nan_is_warned_of(self, name):
        with pytest.warns(UserWarning, match=rf"EarlyStopping\(monitor='{name}'\) will end the run"):
            trainer_with([known_audit(), EarlyStopping(name)]).fit(KnownModule())


class TestFailure:
    def test_warns_counts_logs_nan_and_training_goes_on(self, tmp_path):
        audit = known_audit()
        trainer = trainer_with([audit], tmp_path, max_steps=6)
        with pytest.warns(RuntimeWarning, match="audit at step 4 failed, and training goes on") as warnings:
            trainer.fit(FailingModule())
        assert any("ArithmeticError: the detector broke" in str(warning.message) for warning in warnings)
        assert trainer.global_step == 6
        assert audit.n_failed == 1
        events = read_events(tmp_path)
        values = [event.value for event in events.Scalars("iof/object")]
        assert [value for value in values if not math.isnan(value)] == [1, 1]
        assert math.isnan(values[1])
        assert [event.value for event in events.Scalars("audit/n_failed")] == [0, 1, 1]
        for tag in events.Tags()["images"]:
            assert [event.step for event in events.Images(tag)] == [1, 5]  # no picture of half an audit

    def test_first_audit_failing_does_not_break_a_monitor(self, tmp_path):
        module = FailingModule()
        module.calls = 7
        keep = ModelCheckpoint(tmp_path, monitor="iof/object", mode="max")
        trainer = trainer_with([known_audit(), keep], enable_checkpointing=True)
        with pytest.warns(RuntimeWarning, match="step 2 failed"):
            trainer.fit(module)
        assert trainer.global_step == 4

    def test_hidden_pixels_that_cannot_be_detected_in_fail_the_audit(self, tmp_path):
        class FailsOnHidden(KnownModule):
            def detect(self, images):
                if len(images) > 1:
                    raise ArithmeticError("too many images")
                return super().detect(images)

        audit = known_audit()
        trainer = trainer_with([audit], tmp_path)
        with pytest.warns(RuntimeWarning, match="too many images"):
            trainer.fit(FailsOnHidden())
        assert (trainer.global_step, audit.n_failed) == (4, 2)
        assert {"occlusion/sufficiency", "iof/near"} <= trainer.callback_metrics.keys()
        assert trainer.callback_metrics["occlusion/sufficiency"].isnan()
        without = known_audit(occlusion=False)
        trainer_with([without]).fit(FailsOnHidden())
        assert without.n_failed == 0

    def test_raise_stops_the_run_and_names_the_cause(self):
        trainer = trainer_with([known_audit(on_error="raise")])
        with pytest.raises(RuntimeError, match="audit failed at step 4") as raised:
            trainer.fit(FailingModule())
        assert isinstance(raised.value.__cause__, ArithmeticError)


class TestSetup:
    def test_no_audit_set(self):
        with pytest.raises(MisconfigurationException, match=r"Expected a data module with a method `audit_samples\(\)"):
            trainer_with([ODSmoothGradCallback()]).fit(KnownModule())

    def test_object_that_comes_twice(self):
        with pytest.raises(MisconfigurationException, match="but annotation 1 of image 1 comes 2 times"):
            trainer_with([known_audit(audit_samples=[box_sample(TWO, [0, 1])] * 2)]).fit(KnownModule())

    def test_empty_audit_set(self):
        with pytest.raises(MisconfigurationException, match="at least one object, but got an empty one"):
            trainer_with([known_audit(audit_samples=[])]).fit(KnownModule())

    def test_module_without_detector_is_refused_before_training(self):
        class NoDetector(BoringModel):
            trained = False

            def training_step(self, *_):
                self.trained = True

        module = NoDetector()
        with pytest.raises(ValueError, match="Expected NoDetector to hold exactly one detector"):
            trainer_with([known_audit()]).fit(module)
        assert not module.trained

    def test_sharding_strategy_is_refused(self):
        trainer = Mock(strategy=Mock(spec=FSDPStrategy), callbacks=[])  # a real one needs several GPUs
        with pytest.raises(MisconfigurationException, match="keeps the model whole on every device"):
            known_audit().setup(trainer, KnownModule(), "fit")

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"every_n_validations": 0}, "`every_n_validations` to be at least 1, but got 0"),
            ({"max_strips": -1}, "`max_strips` to be 0 or more, but got -1"),
            ({"reseeded_images": -1}, "`reseeded_images` to be 0 or more, but got -1"),
            ({"reference": "first.json", "drift": False}, "`reference` to come with drift=True"),
            ({"on_error": "ignore"}, "`on_error` to be 'warn' or 'raise', but got 'ignore'"),
            ({"n_samples": 0}, "`n_samples` to be an integer of at least 1"),
            ({"near_threshold": 1.0}, r"`near_threshold` to be in \[0, 1\), but got 1.0"),
            ({"near_margin": -0.1}, "`near_margin` to be a finite number, 0 or more, but got -0.1"),
            ({"sufficiency_margin": -1}, "`sufficiency_margin` to be a finite number, 0 or more, but got -1"),
            ({"necessity_margin": math.inf}, "`necessity_margin` to be a finite number, 0 or more, but got inf"),
        ],
    )
    def test_arguments(self, settings, message):
        with pytest.raises(ValueError, match=message):
            ODSmoothGradCallback(**settings)

    def test_two_audits_in_one_trainer_keep_their_states_apart(self):
        assert known_audit().state_key != known_audit(seed=1).state_key

    def test_a_state_is_found_whatever_is_measured_beside_the_maps(self):
        """It holds maps, which neither ``near`` nor hidden pixels change; so had the last version's."""
        others = ({"occlusion": False}, {"near_margin": 0.1}, {"near_threshold": 0.6}, {"necessity_margin": 0.3})
        assert {known_audit(**other).state_key for other in others} == {known_audit().state_key}


class TestPictures:
    def drawn(self, folder, **settings):
        samples = [box_sample(TWO, [0, 1], image_id=number, first_annotation=10 * number) for number in (1, 2, 3)]
        trainer_with([known_audit(audit_samples=samples, **settings)], folder).fit(KnownModule())
        return [tag.removeprefix("saliency/") for tag in read_events(folder).Tags()["images"]]

    def test_one_object_of_each_image_before_a_second_of_any(self, tmp_path):
        assert self.drawn(tmp_path, max_strips=4) == [
            "image_1/annotation_10",
            "image_1/annotation_11",
            "image_2/annotation_20",
            "image_3/annotation_30",
        ]

    def test_none(self, tmp_path):
        assert self.drawn(tmp_path, max_strips=0) == []


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar])
def test_progress_bar_shows_the_audit(bar, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    kwargs = {"console_kwargs": {"force_terminal": True}} if bar is RichProgressBar else {}
    trainer_with([known_audit(n_samples=5), bar(refresh_rate=1, **kwargs)], enable_progress_bar=True).fit(KnownModule())
    captured = capsys.readouterr()
    assert "ODSmoothGrad audit" in captured.out + captured.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn"])
class TestRealDetector:
    """A real Detectron2 model, a real data module, every entry point."""

    @pytest.fixture
    def model(self, kind, request):
        return request.getfixturevalue(f"trained_{kind}").model

    def test_fit(self, model, shapes_folder, tmp_path):
        seed_everything(0, verbose=False)
        trainer = trainer_with([quick_audit()], tmp_path)
        trainer.fit(module_like(model), datamodule=shapes_data(shapes_folder))
        events = read_events(tmp_path)
        assert set(events.Tags()["scalars"]) >= EVERY_TAG
        assert trainer.callback_metrics["audit/recall"] > 0
        assert 0 < trainer.callback_metrics["iof/object"] <= 1
        assert len(events.Tags()["images"]) >= 4

    def test_validate_and_test_agree_with_each_other(self, model, shapes_folder):
        trainer = trainer_with([quick_audit()])
        data = shapes_data(shapes_folder)
        (validated,) = trainer.validate(module_like(model), data, verbose=False)
        (tested,) = trainer.test(module_like(model), data, verbose=False)
        assert validated["audit/recall"] > 0
        drift = {name for name in EVERY_TAG if name.startswith(("drift/", "drift_ref/")) and "n_objects" not in name}
        assert {tested[name] for name in drift} == {0}  # the audit before is that of the validation
        same = {name for name in EVERY_TAG if not name.startswith(("drift/", "drift_ref/"))} - {"audit/seconds"}
        assert {name: validated[name] for name in same} == pytest.approx(
            {name: tested[name] for name in same}, nan_ok=True
        )
