import pickle
import shutil
from functools import partial

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from helpers.tiny_detection import TinyDataModule, make_sample, make_trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

from odsg_lightning.config_files import config_path
from odsg_lightning.detectors.build import class_count
from odsg_lightning.detectors.detectron2 import to_input_format
from odsg_lightning.errors import UserInputError
from odsg_lightning.training.detectron2_batch import evaluation_inputs, training_inputs
from odsg_lightning.training.module import DetectionModule

BOTH = pytest.mark.parametrize("config", ["retinanet_tiny", "faster_rcnn_tiny"])
# A short schedule, whose rate is not zero after the first steps.
SHORT = {"SOLVER": {"MAX_ITER": 100, "WARMUP_ITERS": 0, "STEPS": [3], "BASE_LR": 0.01}}
sgd = partial(torch.optim.SGD, lr=1.0)


def make_module(config="retinanet_tiny", seed=0, overrides=SHORT, **settings):
    torch.manual_seed(seed)
    return DetectionModule(config, overrides=overrides, **settings)


def state_of(module):
    return {name: value.clone() for name, value in module.detector.state_dict().items()}


def differing(first, second):
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def one_batch(*samples):
    return DataLoader(samples, batch_size=len(samples), collate_fn=list)


class Spy(Callback):
    """Keeps what happened at each step."""

    def __init__(self):
        self.gradients, self.losses, self.rates, self.logged = [], [], [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        # The gradients that the step used: Lightning clears them before the next one.
        self.gradients.append([p.grad.clone() for p in module.detector.parameters() if p.grad is not None])
        self.losses.append(outputs["loss"].detach().clone())
        self.logged.append({key: value.clone() for key, value in trainer.callback_metrics.items()})


# ---- batches ----


def test_rgb_becomes_the_configured_format():
    image = torch.stack([torch.full((2, 2), float(value)) for value in (10, 20, 30)])
    assert to_input_format(image, "BGR")[:, 0, 0].tolist() == [30.0, 20.0, 10.0]
    assert to_input_format(image, "RGB")[:, 0, 0].tolist() == [10.0, 20.0, 30.0]


@pytest.mark.parametrize(
    ("shape", "input_format", "message"),
    [((1, 4, 4), "BGR", r"RGB image \[3, H, W\], but got \(1, 4, 4\)"), ((3, 4, 4), "YUV", "INPUT.FORMAT to be 'BGR'")],
)
def test_other_images_and_formats_are_refused(shape, input_format, message):
    with pytest.raises(ValueError, match=message):
        to_input_format(torch.zeros(shape), input_format)


def test_inputs_carry_boxes_labels_and_sizes():
    sample = make_sample(0, size=64, scale=3)
    (train,) = training_inputs([sample], "BGR")
    assert train["instances"].image_size == (64, 64)
    assert torch.equal(train["instances"].gt_boxes.tensor, sample["boxes"])
    assert torch.equal(train["instances"].gt_classes, sample["labels"])
    (evaluation,) = evaluation_inputs([sample], "BGR")
    assert (evaluation["height"], evaluation["width"]) == (192, 192)


@BOTH
def test_the_detector_sees_bgr(config):
    module = make_module(config).eval()
    seen = []
    module.detector.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    image = torch.zeros(3, 64, 64)
    image[0] = 200.0  # red
    module([image])
    mean, std = module.detector.pixel_mean.flatten(), module.detector.pixel_std.flatten()
    assert (seen[0][0, :, 0, 0] * std + mean).round().tolist() == [0.0, 0.0, 200.0]


# ---- forward ----


@BOTH
def test_forward_returns_detections_in_pixels_of_each_image(config):
    module = make_module(config, overrides=[*_no_threshold()]).eval()
    images = [torch.rand(3, 64, 96) * 255, torch.rand(3, 96, 64) * 255]
    with torch.no_grad():
        found = module(images)
    assert len(found) == 2
    for image, detections in zip(images, found, strict=True):
        assert len(detections) > 0
        assert detections.boxes[:, 0::2].max() <= image.shape[2]
        assert detections.boxes[:, 1::2].max() <= image.shape[1]
        assert bool((detections.scores.diff() <= 0).all())
        assert detections.labels.dtype == torch.int64


def _no_threshold():
    return ["MODEL.RETINANET.SCORE_THRESH_TEST=0.0", "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0"]


def test_forward_in_training_mode_is_refused_and_leaves_the_mode():
    module = make_module()
    with pytest.raises(RuntimeError, match=r"call `\.eval\(\)` first"):
        module([torch.zeros(3, 64, 64)])
    assert module.detector.training


def test_forward_can_be_differentiated():
    module = make_module(overrides=_no_threshold()).eval()
    image = (torch.rand(3, 64, 64) * 255).requires_grad_()
    (gradient,) = torch.autograd.grad(module([image])[0].scores[0], image)
    assert gradient.abs().sum() > 0


# ---- training ----


@BOTH
def test_training_lowers_the_loss_and_logs_each(config):
    spy = Spy()
    module = make_module(config, optimizer=partial(torch.optim.AdamW, lr=1e-3))
    make_trainer(max_steps=8, callbacks=[spy]).fit(module, TinyDataModule().train_dataloader())
    assert sum(spy.losses[-3:]) < sum(spy.losses[:3])
    logged = spy.logged[0]
    expected = {"train/loss", "train/loss_cls", "train/loss_box_reg"}
    if config == "faster_rcnn_tiny":
        expected |= {"train/loss_rpn_cls", "train/loss_rpn_loc"}
    assert set(logged) == expected
    parts = sum(value for name, value in logged.items() if name != "train/loss")
    assert logged["train/loss"] == pytest.approx(float(parts), rel=1e-6)
    assert logged["train/loss"] == pytest.approx(float(spy.losses[0]), rel=1e-6)


@BOTH
def test_an_image_without_objects_trains(config):
    empty = make_sample(0) | {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    spy = Spy()
    make_trainer(callbacks=[spy]).fit(make_module(config), one_batch(empty, make_sample(1)))
    assert torch.isfinite(spy.losses[0])


def test_the_configuration_s_schedule_is_stepped_each_step():
    spy = Spy()
    make_trainer(max_steps=5, callbacks=[spy]).fit(make_module(), TinyDataModule().train_dataloader())
    # STEPS: [3], GAMMA: 0.1.
    assert spy.rates == pytest.approx([0.01, 0.01, 0.01, 0.001, 0.001])


def test_own_optimizer_and_schedule_are_used():
    spy = Spy()
    module = make_module(
        optimizer=partial(torch.optim.Adam, lr=0.5),
        lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    )
    trainer = make_trainer(max_steps=3, callbacks=[spy])
    trainer.fit(module, TinyDataModule().train_dataloader())
    assert isinstance(trainer.optimizers[0], torch.optim.Adam)
    assert spy.rates == [0.5, 0.25, 0.125]


def test_an_own_optimizer_alone_keeps_its_rate():
    spy = Spy()
    module = make_module(optimizer=partial(torch.optim.SGD, lr=1e-4))
    make_trainer(max_steps=5, callbacks=[spy]).fit(module, TinyDataModule().train_dataloader())
    assert spy.rates == [1e-4] * 5


def test_a_run_longer_than_the_schedule_is_refused():
    with pytest.raises(
        MisconfigurationException, match=r"at most SOLVER\.MAX_ITER = 100 optimizer steps.*will make 101"
    ):
        make_trainer(max_steps=101).fit(make_module(), TinyDataModule().train_dataloader())


def test_a_run_within_the_warm_up_is_told():
    with pytest.warns(UserWarning, match=r"within the schedule's warm-up of SOLVER\.WARMUP_ITERS = 1000"):
        make_trainer().fit(make_module(overrides=None), TinyDataModule().train_dataloader())


# ---- gradient clipping ----


def clip_settings(kind, enabled=True):
    clip = {"ENABLED": enabled, "CLIP_TYPE": kind, "CLIP_VALUE": 0.001}
    return {
        "SOLVER": {
            **SHORT["SOLVER"],
            "BASE_LR": 1.0,
            "MOMENTUM": 0.0,
            "WEIGHT_DECAY": 0.0,
            "WEIGHT_DECAY_BIAS": 0.0,
            "CLIP_GRADIENTS": clip,
        }
    }


def one_step(overrides, **trainer_settings):
    """Gradients before the step, and how far each parameter moved (the learning rate is 1)."""
    spy, module = Spy(), make_module(overrides=overrides)
    before = [p.detach().clone() for p in module.detector.parameters()]
    make_trainer(callbacks=[spy], **trainer_settings).fit(module, TinyDataModule().train_dataloader())
    moves = [(new.detach() - old) for new, old in zip(module.detector.parameters(), before, strict=True)]
    return spy.gradients[0], moves


def largest(tensors, norm):
    return max(float(torch.linalg.vector_norm(tensor, norm)) for tensor in tensors)


def test_clipping_by_value_limits_the_real_step():
    gradients, moves = one_step(clip_settings("value"))
    assert largest(gradients, torch.inf) == pytest.approx(0.001)
    assert largest(moves, torch.inf) == pytest.approx(0.001, rel=1e-2)


def test_clipping_by_norm_is_per_parameter():
    gradients, moves = one_step(clip_settings("norm"))
    assert largest(gradients, 2) == pytest.approx(0.001, rel=1e-2)
    assert largest(moves, 2) == pytest.approx(0.001, rel=1e-2)
    # Not one norm over all parameters: together they are longer.
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    assert total > 0.003


def test_without_clipping_the_step_is_far_longer():
    gradients, moves = one_step(clip_settings("value", enabled=False))
    assert largest(gradients, torch.inf) > 0.05
    assert largest(moves, torch.inf) > 0.05


def test_the_trainer_s_own_clipping_wins():
    gradients, _ = one_step(clip_settings("value"), gradient_clip_val=0.5, gradient_clip_algorithm="norm")
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    assert total == pytest.approx(0.5, rel=1e-3)
    assert largest(gradients, torch.inf) > 0.001


def test_an_unknown_kind_of_clipping_is_refused():
    with pytest.raises(ValueError, match="CLIP_TYPE to be 'value' or 'norm', but got 'full_model'"):
        one_step(clip_settings("full_model"))


# ---- evaluation ----


class Oracle(torch.nn.Module):
    """Stands in for the detector: returns the ground truth, scaled to the original size as Detectron2 does."""

    def forward(self, inputs):
        from detectron2.structures import Boxes, Instances

        outputs = []
        for item in inputs:
            index = next(i for i in range(4) if torch.equal(make_sample(i)["image"].flip(0), item["image"]))
            sample = make_sample(index)
            instances = Instances((item["height"], item["width"]))
            instances.pred_boxes = Boxes(sample["boxes"] * item["height"] / sample["image"].shape[1])
            instances.scores = torch.ones(2)
            instances.pred_classes = sample["labels"]
            outputs.append({"instances": instances})
        return outputs


@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
def test_a_perfect_detector_has_precision_one_in_original_pixels(backend, capsys):
    module = make_module(map_backend=backend)
    module.detector = Oracle()
    trainer = make_trainer(limit_val_batches=1.0)
    (logged,) = trainer.validate(module, TinyDataModule(), verbose=False)
    assert logged == {"val/map": 1.0, "val/map_50": 1.0, "val/map_75": 1.0}
    (logged,) = trainer.test(module, TinyDataModule(), verbose=False)
    assert logged == {"test/map": 1.0, "test/map_50": 1.0, "test/map_75": 1.0}
    assert capsys.readouterr().out == ""


def test_crowds_are_not_misses():
    sample = make_sample(0)
    sample["target"] = {
        "boxes": torch.cat([sample["target"]["boxes"], torch.tensor([[0.0, 0.0, 9.0, 9.0]])]),
        "labels": torch.cat([sample["labels"], sample["labels"][:1]]),
        "iscrowd": torch.tensor([0, 0, 1]),
    }
    module = make_module()
    module.detector = Oracle()
    (logged,) = make_trainer(limit_val_batches=1.0).validate(module, one_batch(sample), verbose=False)
    assert logged["val/map"] == 1.0
    sample["target"]["iscrowd"][2] = 0
    (logged,) = make_trainer(limit_val_batches=1.0).validate(module, one_batch(sample), verbose=False)
    assert logged["val/map"] < 1.0


def test_each_validation_starts_afresh():
    module = make_module()
    trainer = make_trainer(limit_val_batches=1.0)
    (first,) = trainer.validate(module, TinyDataModule(), verbose=False)
    module.detector = Oracle()
    (second,) = trainer.validate(module, one_batch(make_sample(0)), verbose=False)
    assert first["val/map"] < 0.5
    assert second["val/map"] == 1.0


def test_validation_inside_fit_can_be_monitored(tmp_path):
    keep = ModelCheckpoint(tmp_path, monitor="val/map", mode="max", filename="best")
    trainer = make_trainer(max_steps=2, limit_val_batches=1.0, enable_checkpointing=True, callbacks=[keep])
    trainer.fit(make_module(), datamodule=TinyDataModule())
    assert keep.best_model_score is not None
    assert (tmp_path / "best.ckpt").is_file()


def test_predictions_are_in_original_pixels():
    module = make_module()
    module.detector = Oracle()
    batches = make_trainer().predict(module, TinyDataModule())
    assert [item["image_id"] for batch in batches for item in batch] == [10, 11, 12, 13]
    first = batches[0][0]
    assert set(first) == {"image_id", "boxes", "scores", "labels"}
    assert torch.equal(first["boxes"], make_sample(0)["boxes"] * 2)


# ---- number of classes ----


@BOTH
@pytest.mark.parametrize("entry", ["fit", "validate", "test", "predict"])
def test_auto_takes_the_data_module_s_number(config, entry):
    module = DetectionModule(config, overrides=SHORT, num_classes="auto")
    assert not hasattr(module, "detector")
    getattr(make_trainer(limit_val_batches=1), entry)(module, datamodule=TinyDataModule(num_classes=5))
    head = module.detector if config == "retinanet_tiny" else module.detector.roi_heads
    assert head.num_classes == 5
    assert module.hparams["num_classes"] == 5


def test_auto_without_a_detector_says_why():
    module = DetectionModule("retinanet_tiny", num_classes="auto")
    with pytest.raises(AttributeError, match="built when the Trainer sets the module up"):
        module.detector  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        module.nonsense  # noqa: B018


def test_auto_without_a_data_module_is_refused():
    module = DetectionModule("retinanet_tiny", num_classes="auto")
    with pytest.raises(
        MisconfigurationException, match="to come with a data module that has `num_classes`, but got None"
    ):
        make_trainer().fit(module, TinyDataModule().train_dataloader())


def test_data_with_more_classes_than_the_detector_is_refused():
    with pytest.raises(MisconfigurationException, match=r"at most 3 classes, the detector's number, but .* has 5"):
        make_trainer().fit(make_module(), datamodule=TinyDataModule(num_classes=5))


def test_num_classes_none_is_the_configuration_s_and_a_number_wins():
    assert make_module().detector.num_classes == 3
    assert make_module(num_classes=7).detector.num_classes == 7


# ---- checkpoints ----


def fitted_checkpoint(tmp_path, num_classes="auto", config="retinanet_tiny", **settings):
    torch.manual_seed(0)
    module = DetectionModule(config, overrides=SHORT, num_classes=num_classes, **settings)
    trainer = make_trainer(max_steps=2)
    trainer.fit(module, datamodule=TinyDataModule(num_classes=5))
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    return module, path


@BOTH
@pytest.mark.parametrize("num_classes", ["auto", 5])
def test_a_checkpoint_stands_alone(tmp_path, config, num_classes):
    yaml = tmp_path / "mine.yaml"
    shutil.copy(config_path(f"detectors/{config}"), yaml)
    module, path = fitted_checkpoint(tmp_path, num_classes, config=str(yaml))
    yaml.unlink()
    loaded = DetectionModule.load_from_checkpoint(path)
    assert loaded.cfg == module.cfg
    assert class_count(loaded.cfg) == 5
    assert differing(state_of(loaded), state_of(module)) == []


def test_a_checkpoint_holds_plain_data_only(tmp_path):
    module, path = fitted_checkpoint(
        tmp_path, optimizer=sgd, lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    )
    content = torch.load(path, weights_only=True)
    hparams = content["hyper_parameters"]
    assert hparams["num_classes"] == 5
    assert hparams["config"]["MODEL"]["RETINANET"]["NUM_CLASSES"] == 5
    assert set(hparams) == {"config", "overrides", "num_classes", "map_backend"}
    assert {name.split(".")[0] for name in content["state_dict"]} == {"detector"}
    loaded = DetectionModule.load_from_checkpoint(path, weights_only=True, optimizer=sgd)
    assert differing(state_of(loaded), state_of(module)) == []


def test_weights_are_not_needed_again(tmp_path):
    make_module(num_classes=5).export_weights(tmp_path / "start.pth")
    module, path = fitted_checkpoint(tmp_path, weights=tmp_path / "start.pth")
    (tmp_path / "start.pth").unlink()
    assert differing(state_of(DetectionModule.load_from_checkpoint(path)), state_of(module)) == []


@pytest.mark.parametrize("num_classes", ["auto", 5])
def test_weights_are_loaded_at_the_start(tmp_path, num_classes):
    source = make_module(seed=7, num_classes=5)
    source.export_weights(tmp_path / "start.pth")
    module = make_module(seed=8, num_classes=num_classes, weights=tmp_path / "start.pth")
    make_trainer(limit_val_batches=1).validate(module, TinyDataModule(num_classes=5), verbose=False)
    assert differing(state_of(source), state_of(module)) == []


def test_exported_weights_are_a_plain_detectron2_checkpoint(tmp_path):
    source, target = make_module(seed=1), make_module(seed=2)
    source.export_weights(tmp_path / "w.pth")
    assert DetectionCheckpointer(target.detector).load(str(tmp_path / "w.pth")) == {}
    assert differing(state_of(source), state_of(target)) == []
    with pytest.raises(ValueError, match=r"to end in '\.pth', but got"):
        source.export_weights(tmp_path / "w.pkl")


@pytest.mark.parametrize("weights_only", [None, True])
def test_a_resumed_run_continues_bit_for_bit(tmp_path, weights_only):
    epochs = {"max_steps": -1, "limit_train_batches": 2}
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    whole, spy = make_module(), Spy()
    trainer = make_trainer(max_epochs=2, enable_checkpointing=True, callbacks=[spy, keep], **epochs)
    trainer.fit(whole, datamodule=TinyDataModule())

    resumed, spy_resumed = make_module(seed=9, num_classes="auto"), Spy()
    trainer = make_trainer(max_epochs=2, callbacks=[spy_resumed], **epochs)
    trainer.fit(resumed, datamodule=TinyDataModule(), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=weights_only)
    assert len(spy.losses) == 4
    assert torch.equal(torch.stack(spy.losses[2:]), torch.stack(spy_resumed.losses))
    assert spy.rates[2:] == spy_resumed.rates == pytest.approx([0.01, 0.001])
    assert resumed.detector.loss_normalizer == whole.detector.loss_normalizer
    assert differing(state_of(whole), state_of(resumed)) == []


def test_the_loss_normalizer_is_loaded_without_a_trainer(tmp_path):
    module, path = fitted_checkpoint(tmp_path)
    assert module.detector.loss_normalizer < 95  # it started at 100
    assert DetectionModule.load_from_checkpoint(path).detector.loss_normalizer == module.detector.loss_normalizer


class NamedDataModule(TinyDataModule):
    def __init__(self, names):
        super().__init__(num_classes=len(names))
        self.category_names = names


def named_checkpoint(tmp_path):
    trainer = make_trainer()
    trainer.fit(make_module(num_classes="auto"), datamodule=NamedDataModule(["cat", "dog", "cow"]))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


def test_the_names_of_the_classes_are_the_data_module_s_and_travel(tmp_path):
    loaded = DetectionModule.load_from_checkpoint(named_checkpoint(tmp_path))
    assert loaded.category_names == ("cat", "dog", "cow")
    loaded.export_weights(tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True)["odsg_category_names"] == ["cat", "dog", "cow"]


def test_without_names_a_checkpoint_has_none(tmp_path):
    _, path = fitted_checkpoint(tmp_path, num_classes=5)
    assert "odsg_category_names" not in torch.load(path, weights_only=True)
    assert DetectionModule.load_from_checkpoint(path).category_names is None


@pytest.mark.parametrize("entry", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_is_not_used_with_other_classes(tmp_path, entry):
    path = named_checkpoint(tmp_path)
    run = getattr(make_trainer(max_steps=2, limit_val_batches=1), entry)
    with pytest.raises(UserInputError, match=r"in the same order, \['cat', .*\], but got \['dog', 'cat', 'cow'\]"):
        run(make_module(), datamodule=NamedDataModule(["dog", "cat", "cow"]), ckpt_path=path)
    loaded = DetectionModule.load_from_checkpoint(path)
    with pytest.raises(UserInputError, match="in the same order"):
        getattr(make_trainer(), entry)(loaded, datamodule=NamedDataModule(["dog", "cat", "cow"]))
    run(make_module(), datamodule=NamedDataModule(["cat", "dog", "cow"]), ckpt_path=path)


def test_a_checkpoint_of_a_compiled_detector_goes_on(tmp_path):
    module, path = fitted_checkpoint(tmp_path, num_classes=5)
    content = torch.load(path, weights_only=True)
    state = content["state_dict"]
    content["state_dict"] = {f"detector._orig_mod.{name.removeprefix('detector.')}": state[name] for name in state}
    torch.save(content, path)
    resumed = make_module(seed=9, num_classes=5)
    make_trainer(max_steps=2).fit(resumed, datamodule=TinyDataModule(num_classes=5), ckpt_path=path)
    assert differing(state_of(module), state_of(resumed)) == []


# ---- command line, processes ----


def test_lightning_cli_builds_trains_and_the_checkpoint_loads(tmp_path):
    cli = LightningCLI(
        DetectionModule,
        TinyDataModule,
        save_config_callback=None,
        seed_everything_default=1,
        args=[
            "fit",
            "--model.config=retinanet_tiny",
            "--model.overrides={TEST: {DETECTIONS_PER_IMAGE: 7}, SOLVER.BASE_LR: 0.5}",
            "--model.num_classes=auto",
            "--model.optimizer=torch.optim.AdamW",
            "--model.optimizer.lr=0.001",
            "--model.lr_scheduler=torch.optim.lr_scheduler.OneCycleLR",
            "--model.lr_scheduler.max_lr=0.002",
            "--model.lr_scheduler.total_steps=4",
            "--data.num_classes=4",
            "--trainer.max_steps=1",
            "--trainer.accelerator=cpu",
            "--trainer.logger=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            "--trainer.enable_checkpointing=false",
            "--trainer.limit_val_batches=0",
        ],
    )
    assert isinstance(cli.trainer.optimizers[0], torch.optim.AdamW)
    assert isinstance(cli.trainer.lr_scheduler_configs[0].scheduler, torch.optim.lr_scheduler.OneCycleLR)
    assert cli.model.cfg.TEST.DETECTIONS_PER_IMAGE == 7
    assert class_count(cli.model.cfg) == 4
    cli.trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = DetectionModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert loaded.cfg == cli.model.cfg
    assert differing(state_of(loaded), state_of(cli.model)) == []


def test_the_module_pickles():
    module = make_module()
    copy = pickle.loads(pickle.dumps(module))
    assert differing(state_of(module), state_of(copy)) == []
