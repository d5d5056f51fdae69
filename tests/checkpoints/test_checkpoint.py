import time
import zipfile

import pytest
import torch
from helpers.checkpoints import save_lightning, save_zoo_pickle, tiny_module
from lightning.pytorch import LightningModule

from odsg_lightning import DetectionModule
from odsg_lightning.checkpoints.detector import load_detector
from odsg_lightning.detectors.build import class_count
from odsg_lightning.detectors.weights.files import read_checkpoint_file
from odsg_lightning.errors import BrokenInputError


def same(first, second):
    one, other = first.detector.state_dict(), second.detector.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_kind_gives_the_same_detector(tmp_path):
    source = tiny_module(seed=5, num_classes=4)
    save_lightning(source, tmp_path / "a.ckpt")
    source.export_weights(tmp_path / "a.pth")
    save_zoo_pickle(source, tmp_path / "a.pkl")
    loaded = [
        load_detector(tmp_path / "a.ckpt"),
        load_detector(tmp_path / "a.pth", "retinanet_tiny", 4),
        load_detector(tmp_path / "a.pkl", "retinanet_tiny", 4),
        load_detector(tmp_path / "a.pkl", "retinanet_tiny", 4, trust=True),
    ]
    for module in loaded:
        assert same(module, source)
        assert class_count(module.cfg) == 4
        assert not module.training


def test_nothing_global_is_left_changed(tmp_path):
    save_lightning(tiny_module(), tmp_path / "a.ckpt")
    load_detector(tmp_path / "a.ckpt")
    assert torch.zeros(1).device.type == "cpu"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("a.ckpt", ("retinanet_tiny",), "carries both"),
        ("a.ckpt", (None, 3), "carries both"),
        ("a.pth", (), r"configuration of .*a\.pth.* --config|\(--config\)"),
        ("a.onnx", (), r"ends in \.ckpt .* but got 'a\.onnx'"),
        ("a.pth", ("retinanet_huge",), "one of the names .*retinanet_tiny, or .* model zoo, but got 'retinanet_huge'"),
    ],
)
def test_arguments_that_do_not_fit_are_mistakes_of_usage(tmp_path, name, arguments, message):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=message) as raised:
        load_detector(tmp_path / name, *arguments)
    assert not isinstance(raised.value, BrokenInputError)


@pytest.mark.parametrize("name", ["a.ckpt", "a.pth", "a.pkl"])
def test_missing_empty_and_wrong_files(tmp_path, name):
    config = None if name == "a.ckpt" else "retinanet_tiny"
    with pytest.raises(BrokenInputError, match="No such file"):
        load_detector(tmp_path / name, config)
    for content in (b"", b"not a checkpoint", b"PK\x03\x04 not an archive"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BrokenInputError, match="cannot be read as one"):
            load_detector(tmp_path / name, config)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(BrokenInputError, match="it is a folder"):
        load_detector(tmp_path / name, config)


def test_a_truncated_checkpoint(tmp_path):
    path = save_lightning(tiny_module(), tmp_path / "a.ckpt")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BrokenInputError, match="cannot be read as one"):
        load_detector(path)


class Other(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)


def test_another_lightning_module_is_refused(tmp_path):
    with pytest.raises(BrokenInputError, match=r"a checkpoint of odsg_lightning\.DetectionModule"):
        load_detector(save_lightning(Other(), tmp_path / "a.ckpt"))


def changed(tmp_path, change):
    path = save_lightning(tiny_module(), tmp_path / "a.ckpt")
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["state_dict"].pop("detector.head.cls_score.weight"), r"(?s)fill the detector.*cls_score\.weight"),
        (lambda c: c["state_dict"].update({"detector.head.cls_score.bias": torch.zeros(5)}), "of another shape"),
        (lambda c: c["state_dict"].update({"detector.head.cls_score.bias": "text"}), "tensors only"),
        (lambda c: c["state_dict"].update(surprise=torch.zeros(1)), "surprise"),
        (lambda c: c["hyper_parameters"].update(config={"MODEL": {"NOTHING": 1}}), "keys that Detectron2 knows"),
        (lambda c: c["hyper_parameters"].update(config=["MODEL"]), "a checkpoint of odsg_lightning.DetectionModule"),
        (lambda c: c["hyper_parameters"]["config"]["MODEL"].update(META_ARCHITECTURE="SemanticSegmentor"), "audited"),
        (
            lambda c: c["hyper_parameters"]["config"]["MODEL"].update(META_ARCHITECTURE="Nothing"),
            "'Nothing' to be registered",
        ),
        (lambda c: c["hyper_parameters"]["config"]["MODEL"]["FPN"].update(OUT_CHANNELS=10**7), "at most 2147483648"),
        (lambda c: c["hyper_parameters"]["config"]["MODEL"]["FPN"].update(OUT_CHANNELS=-5), "built and audited"),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_refused(tmp_path, change, message):
    path = changed(tmp_path, change)
    with pytest.raises(BrokenInputError, match=message):
        load_detector(path)


@pytest.mark.parametrize("name", ["a.ckpt", "a.pth"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_the_first_layer(tmp_path, name, value):
    source = tiny_module()
    for layer in ("backbone.bottom_up.res3.0.conv1.weight", "head.cls_score.bias"):
        source.detector.get_parameter(layer).data.flatten()[1] = value
    save_lightning(source, tmp_path / "a.ckpt")
    source.export_weights(tmp_path / "a.pth")
    arguments = () if name == "a.ckpt" else ("retinanet_tiny", 3)
    with pytest.raises(BrokenInputError, match=r"1 of the \d+ values of detector\.backbone\.bottom_up\.res3\.0"):
        load_detector(tmp_path / name, *arguments)


def test_a_pixel_std_of_zero_is_no_normalisation(tmp_path):
    path = changed(tmp_path, lambda c: c["hyper_parameters"]["config"]["MODEL"].update(PIXEL_STD=[float("nan")] * 3))
    with pytest.raises(BrokenInputError, match=r"3 of the 3 values of detector\.pixel_std are NaN"):
        load_detector(path)


def test_a_checkpoint_of_a_compiled_detector_is_read(tmp_path):
    source = tiny_module(seed=5)
    for prefix in ("_orig_mod.", "module.", "module._orig_mod."):
        path = save_lightning(source, tmp_path / "a.ckpt")
        content = torch.load(path, weights_only=True)
        state = content["state_dict"]
        content["state_dict"] = {key.replace("detector.", f"detector.{prefix}", 1): state[key] for key in state}
        torch.save(content, path)
        assert same(load_detector(path), source)
        assert same(DetectionModule.load_from_checkpoint(path), source)


def doubled(times):
    config = {"SEED": 1}
    for _ in range(times):
        config = {"MODEL": config, "TEST": config}
    return config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config: config["MODEL"]["RETINANET"].update(NUM_CONVS=10**9),
            r"1000 for MODEL\.RETINANET\.NUM",
        ),
        (
            lambda config: config["MODEL"].update(ROI_BOX_HEAD={"NUM_FC": 10**9}),
            r"1000 for MODEL\.ROI_BOX_HEAD",
        ),
        (
            lambda config: config["MODEL"].update(ROI_MASK_HEAD={"POOLER_RESOLUTION": 10**6}),
            r"64 for MODEL\.ROI_MASK_HEAD\.POOLER",
        ),
        (lambda config: config["MODEL"].update(ANCHOR_GENERATOR={"SIZES": [[8.0] * 2000]}), "1000 for anchors"),
        (lambda config: config.update(doubled(20)), "at most 100000 values"),
        (
            lambda config: config["MODEL"]["BACKBONE"].update(NAME="build_mine"),
            "'build_mine' to be reg.*BACKBONE",
        ),
    ],
)
def test_a_configuration_that_takes_forever_is_refused(tmp_path, change, message):
    path = changed(tmp_path, lambda content: change(content["hyper_parameters"]["config"]))
    started = time.process_time()
    with pytest.raises(BrokenInputError, match=message):
        load_detector(path)
    assert time.process_time() - started < 20


def test_the_names_of_the_classes_travel_in_both_formats(tmp_path):
    source = tiny_module()
    source.category_names = ("a", "b", "c")
    save_lightning(source, tmp_path / "a.ckpt")
    source.export_weights(tmp_path / "a.pth")
    save_zoo_pickle(source, tmp_path / "a.pkl")
    assert load_detector(tmp_path / "a.ckpt").category_names == ("a", "b", "c")
    assert load_detector(tmp_path / "a.pth", "retinanet_tiny", 3).category_names == ("a", "b", "c")
    assert load_detector(tmp_path / "a.pkl", "retinanet_tiny", 3).category_names is None


@pytest.mark.parametrize("names", [["a", "b", "c", "d"], ["a", 3], ["a", ""], "abc", {"a": 1}, ["x" * 1001]])
def test_names_that_are_none_are_refused(tmp_path, names):
    path = changed(tmp_path, lambda content: content.update(odsg_category_names=names))
    with pytest.raises(BrokenInputError, match=r"list of names|to name its 3 classes, but it has 4"):
        load_detector(path)


@pytest.mark.filterwarnings("ignore:.*(Of another shape|Not in the file)")
@pytest.mark.parametrize("kind", ["another number of classes", "backbone alone", "no backbone"])
def test_a_file_that_leaves_weights_as_initialised_is_refused(tmp_path, kind):
    module = tiny_module(num_classes=5 if kind == "another number of classes" else 3)
    state = module.detector.state_dict()
    if kind == "backbone alone":
        state = {name: value for name, value in state.items() if name.startswith("backbone.")}
    if kind == "no backbone":
        state = {name: value for name, value in state.items() if not name.startswith("backbone.")}
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(BrokenInputError, match=r"to fill the (whole detector|backbone)"):
        load_detector(tmp_path / "a.pth", "retinanet_tiny", 3)


def repacked(path, compression=zipfile.ZIP_STORED, rename=lambda name: name):
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(rename(name), content)
    return path


def test_archives_that_torch_does_not_write_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"model": {"zeros": torch.zeros(1000, 1000)}}, path)
    assert read_checkpoint_file(repacked(path))["model"]["zeros"].shape == (1000, 1000)
    repacked(path, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    with pytest.raises(BrokenInputError, match="a compressed archive"):
        read_checkpoint_file(path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"model": {"zeros": torch.zeros(1000)}}, path)
    with zipfile.ZipFile(path, "a") as archive:
        data = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
        for copy in range(100):
            shared = zipfile.ZipInfo(f"archive/data/{copy + 1}")
            shared.header_offset, shared.CRC = data.header_offset, data.CRC
            shared.file_size = shared.compress_size = data.file_size
            archive.filelist.append(shared)
        archive._didModify = True
    with pytest.raises(BrokenInputError, match="its members take 4"):
        read_checkpoint_file(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_programs_are_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pth")
    with pytest.raises(BrokenInputError, match=r"a TorchScript program|a compressed archive"):
        read_checkpoint_file(tmp_path / "a.pth")


def test_a_file_of_torch_1_5_is_read(tmp_path):
    torch.save({"model": {"a": torch.arange(3)}}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert read_checkpoint_file(tmp_path / "a.pth")["model"]["a"].tolist() == [0, 1, 2]
