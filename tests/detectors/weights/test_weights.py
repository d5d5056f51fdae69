import logging
import pickle
import subprocess
import sys
import warnings

import pytest
import torch

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.weights.load import SkippedLayer, WeightsReport, load_weights
from odsg_lightning.errors import BrokenInputError, MissingFileError

# One full-size backbone is needed: the model zoo's names exist for nothing smaller. Its FPN is narrow to be quick.
RESNET50 = {
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.BACKBONE.FREEZE_AT": 2,
}


def make_detector(name="retinanet_tiny", num_classes=3, seed=0, overrides=()):
    torch.manual_seed(seed)
    return build_detector(load_config(name, overrides, num_classes))


def same(first, second, ignore=()):
    other = second.state_dict()
    return [
        key for key, value in first.state_dict().items() if not torch.equal(value, other[key]) and key not in ignore
    ]


def as_arrays(detector):
    return {name: value.numpy() for name, value in detector.state_dict().items()}


def save_pickle(path, content):
    path.write_bytes(pickle.dumps(content))
    return path


@pytest.mark.parametrize("name", ["retinanet_tiny", "faster_rcnn_tiny"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_pth_fills_the_detector_without_a_warning(tmp_path, name, wrapped):
    source, target = make_detector(name, seed=1), make_detector(name, seed=2)
    state = source.state_dict()
    torch.save({"model": state} if wrapped else state, tmp_path / "w.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        report = load_weights(target, tmp_path / "w.pth")
    assert report.complete
    assert report.loaded == len(state)
    assert same(source, target) == []
    assert str(report) == f"{tmp_path / 'w.pth'}: {len(state)} tensors loaded."


def test_model_zoo_pickle_fills_the_detector(tmp_path):
    source, target = make_detector(seed=1), make_detector(seed=2)
    path = save_pickle(tmp_path / "model_final.pkl", {"model": as_arrays(source), "__author__": "Detectron2 Model Zoo"})
    assert load_weights(target, path).complete
    assert same(source, target) == []


def test_another_number_of_classes_is_skipped_and_reported_once(tmp_path):
    source, target = make_detector(num_classes=5, seed=1), make_detector(num_classes=3, seed=2)
    before = target.head.cls_score.weight.clone()
    path = save_pickle(tmp_path / "w.pkl", {"model": as_arrays(source), "__author__": "Detectron2 Model Zoo"})
    with pytest.warns(UserWarning, match=r"head\.cls_score\.weight \(detector \(18, .*file \(30, ") as record:
        report = load_weights(target, path)
    assert len(record) == 1
    # 6 anchors per place: 2 sizes, 3 ratios.
    assert report.skipped == (
        SkippedLayer("head.cls_score.weight", (18, 64, 3, 3), (30, 64, 3, 3)),
        SkippedLayer("head.cls_score.bias", (18,), (30,)),
    )
    assert report.missing == report.unexpected == ()
    assert report.loaded == len(target.state_dict()) - 2
    assert torch.equal(target.head.cls_score.weight, before)
    assert same(source.backbone, target.backbone) == []


def test_heuristics_load_a_backbone_whose_names_are_shorter(tmp_path):
    # As in the model zoo's ImageNet files: "stem.conv1.weight", not "backbone.bottom_up.stem.conv1.weight".
    source, target = make_detector(seed=1), make_detector(seed=2)
    body = {name: value.numpy() for name, value in source.backbone.bottom_up.state_dict().items()}
    body["fc.weight"] = torch.zeros(10, 3).numpy()
    path = save_pickle(tmp_path / "R.pkl", {"model": body, "__author__": "torchvision", "matching_heuristics": True})
    fpn = target.backbone.fpn_lateral3.weight.clone()
    with pytest.warns(UserWarning, match="Not in the file, so left as initialised: backbone.fpn_lateral3"):
        report = load_weights(target, path)
    assert same(source.backbone.bottom_up, target.backbone.bottom_up) == []
    assert report.loaded == len(body) - 1
    assert report.unexpected == ("fc.weight",)
    assert torch.equal(target.backbone.fpn_lateral3.weight, fpn)


def test_detectron2_does_not_log_the_same_again(tmp_path, caplog):
    source, target = make_detector(num_classes=5), make_detector(num_classes=3)
    content = {"model": as_arrays(source), "__author__": "somebody", "matching_heuristics": True}
    with caplog.at_level(logging.WARNING), pytest.warns(UserWarning, match="Of another shape"):
        load_weights(target, save_pickle(tmp_path / "w.pkl", content))
    assert [record.name for record in caplog.records] == []


def caffe2_names(bottom_up):
    """The names of MSRA's R-50.pkl for the body of a ResNet-50: conv1_w, res2_0_branch2a_bn_s, ..."""
    named = {}
    branch = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
    for name, value in bottom_up.state_dict().items():
        parts = name.split(".")
        if parts[0] == "stem":
            conv = "conv1"
            norm = "res_conv1_bn"
        else:
            conv = f"{parts[0]}_{parts[1]}_{branch[parts[2]]}"
            norm = f"{conv}_bn"
        suffix = parts[-1]
        if parts[-2] != "norm":
            named[f"{conv}_w"] = value.numpy()
        elif suffix in ("weight", "bias"):
            named[f"{norm}_{'s' if suffix == 'weight' else 'b'}"] = value.numpy()
    return named


def test_caffe2_imagenet_backbone(tmp_path):
    source = make_detector("retinanet_R_50_FPN", seed=1, overrides=RESNET50)
    target = make_detector("retinanet_R_50_FPN", seed=2, overrides=RESNET50)
    blobs = caffe2_names(source.backbone.bottom_up)
    blobs |= {"fc1000_w": torch.zeros(1000, 2048).numpy(), "fc1000_b": torch.zeros(1000).numpy()}
    blobs["conv1_w_momentum"] = torch.zeros(1).numpy()
    with pytest.warns(UserWarning, match="Not in the file"):
        report = load_weights(target, save_pickle(tmp_path / "R-50.pkl", blobs))
    for name, parameter in source.backbone.bottom_up.named_parameters():
        assert torch.equal(parameter, target.backbone.bottom_up.get_parameter(name)), name
    assert not [name for name in report.missing if name.startswith("backbone.bottom_up")]
    assert any(name.startswith("backbone.fpn_lateral3") for name in report.missing)


def test_a_backbone_without_fpn_is_checked_too(tmp_path):
    tiny = ["MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16"]
    tiny += ["MODEL.RESNETS.WIDTH_PER_GROUP", "16"]
    source, target = (make_detector("faster_rcnn_R_50_C4", seed=seed, overrides=tiny) for seed in (1, 2))
    state = source.state_dict()
    torch.save({"model": state}, tmp_path / "w.pth")
    assert load_weights(target, tmp_path / "w.pth").complete
    del state["backbone.res4.0.conv1.weight"]
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(BrokenInputError, match=r"1 of its \d+ parameters .*: backbone\.res4\.0\.conv1\.weight\."):
        load_weights(target, tmp_path / "w.pth")


def test_another_backbone_is_refused(tmp_path):
    source, target = make_detector(), make_detector()
    state = source.state_dict()
    key = "backbone.bottom_up.res3.0.conv1.weight"
    state[key] = torch.zeros(2, 2, 3, 3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        BrokenInputError, match=r"to fill the backbone.*res3\.0\.conv1\.weight \(detector \(64, 32, 3, 3\), file"
    ):
        load_weights(target, tmp_path / "w.pth")


def test_heads_alone_are_refused(tmp_path):
    state = {name: value for name, value in make_detector().state_dict().items() if name.startswith("head.")}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(BrokenInputError, match=r"bottom_up\.stem\.conv1\.weight.* and \d+ more.*same backbone"):
        load_weights(make_detector(), tmp_path / "w.pth")


def test_missing_fpn_and_heads_are_reported_not_refused(tmp_path):
    state = {n: v for n, v in make_detector().state_dict().items() if n.startswith("backbone.bottom_up.")}
    torch.save(state, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="Not in the file"):
        report = load_weights(make_detector(), tmp_path / "w.pth")
    assert report.loaded == len(state)
    assert report.skipped == report.unexpected == ()


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(MissingFileError, match=r"Expected a checkpoint file .* at .*none\.pth, but No such file"):
        load_weights(make_detector(), tmp_path / "none.pth")
    with pytest.raises(BrokenInputError, match="but it is a folder"):
        load_weights(make_detector(), tmp_path)


@pytest.mark.parametrize("name", ["w.pth", "w.pkl"])
def test_not_a_checkpoint(tmp_path, name):
    (tmp_path / name).write_text("not a checkpoint")
    with pytest.raises(BrokenInputError, match=r"Expected .* to be a Detectron2 checkpoint .* cannot be read as one"):
        load_weights(make_detector(), tmp_path / name)


def test_a_lightning_checkpoint_is_named(tmp_path):
    torch.save({"epoch": 1, "state_dict": {}, "pytorch-lightning_version": "2.6.6"}, tmp_path / "last.ckpt")
    with pytest.raises(BrokenInputError, match=r"DetectionModule\.load_from_checkpoint"):
        load_weights(make_detector(), tmp_path / "last.ckpt")


@pytest.mark.slow
def test_a_process_without_a_trainer_is_told_too(tmp_path):
    """Lightning's warnings ask which process of how many this is, which nobody has said if it was never imported."""
    state = {n: v for n, v in make_detector().state_dict().items() if n.startswith("backbone.bottom_up.")}
    torch.save(state, tmp_path / "w.pth")
    code = f"""
from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.weights.load import load_weights
load_weights(build_detector(load_config("retinanet_tiny")), {str(tmp_path / "w.pth")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Not in the file, so left as initialised: backbone.fpn_lateral3" in done.stderr


def test_the_report_is_readable():
    report = WeightsReport("w.pth", 3, (SkippedLayer("a", (1,), (2,)),), tuple("bcdefgh"), ("z",))
    assert str(report) == (
        "w.pth: 3 tensors loaded.\n"
        "Of another shape, so left as initialised: a (detector (1,), file (2,)).\n"
        "Not in the file, so left as initialised: b, c, d, e, f and 2 more.\n"
        "In the file only, so not used: z."
    )
    assert not report.complete
