import subprocess
import sys
from pathlib import Path

import pytest
import torch

from odsg_lightning.config_files import config_names, config_path
from odsg_lightning.detectors.build import build_detector, class_count, load_config, portable_config
from odsg_lightning.detectors.detectron2_import import require_detectron2
from odsg_lightning.detectors.tiny_backbone import TINY_BACKBONE, register_tiny_backbone

require_detectron2()

import detectron2  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.modeling import BACKBONE_REGISTRY, GeneralizedRCNN  # noqa: E402
from detectron2.modeling.meta_arch.retinanet import RetinaNet  # noqa: E402

FULL_SIZE = [
    "retinanet_R_50_FPN",
    "retinanet_R_101_FPN",
    "faster_rcnn_R_50_FPN",
    "faster_rcnn_R_101_FPN",
    "faster_rcnn_R_50_C4",
    "faster_rcnn_R_50_DC5",
]
TINY = ["retinanet_tiny", "faster_rcnn_tiny"]


@pytest.mark.parametrize(
    ("name", "kind", "low", "high"),
    [("retinanet_tiny", RetinaNet, 0.75e6, 0.85e6), ("faster_rcnn_tiny", GeneralizedRCNN, 1.05e6, 1.15e6)],
)
def test_tiny_detectors_have_the_size_they_claim(name, kind, low, high):
    detector = build_detector(load_config(name))
    assert isinstance(detector, kind)
    assert low < sum(parameter.numel() for parameter in detector.parameters()) < high
    assert {parameter.device.type for parameter in detector.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("name", "millions"),
    # Of the model zoo's own detectors, with 80 classes.
    zip(FULL_SIZE, [37.916, 56.855, 41.700, 60.640, 33.792, 165.581], strict=True),
)
def test_full_size_detectors_build(name, millions):
    detector = build_detector(load_config(name))
    assert sum(parameter.numel() for parameter in detector.parameters()) / 1e6 == pytest.approx(millions, abs=6e-4)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_configurations_are_those_of_the_model_zoo(name):
    zoo = Path(detectron2.__file__).parent / "model_zoo" / "configs" / "COCO-Detection" / f"{name}_3x.yaml"
    if not zoo.is_file():
        pytest.skip("this Detectron2 comes without its model zoo's files")
    expected = get_cfg()
    expected.merge_from_file(str(zoo), allow_unsafe=True)
    expected.MODEL.WEIGHTS = ""
    assert load_config(name) == expected


def test_retinanet_anchors_are_the_paper_s_three_octave_steps():
    sizes = load_config("retinanet_R_50_FPN").MODEL.ANCHOR_GENERATOR.SIZES
    assert sizes == [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)]


def test_every_configuration_is_known_by_its_bare_name():
    names = [name.removeprefix("detectors/") for name in config_names("detectors")]
    assert set(FULL_SIZE + TINY) <= set(names)
    for name in names:
        assert load_config(name) == load_config(config_path(f"detectors/{name}.yaml"))


def test_config_path_lists_what_there_is():
    with pytest.raises(ValueError, match=r"but got 'detectors/resnet'\. There are: .*detectors/retinanet_tiny"):
        config_path("detectors/resnet")


def test_config_path_stays_inside_the_folder():
    with pytest.raises(ValueError, match="one of the project's configurations"):
        config_path("../pyproject.toml")


def test_files_are_found_from_another_working_directory(tmp_path):
    code = "from odsg_lightning.config_files import config_path; print(config_path('detectors/retinanet_tiny').name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "retinanet_tiny.yaml"


def test_num_classes_sets_both_heads():
    cfg = load_config("retinanet_tiny", num_classes=7)
    assert (cfg.MODEL.RETINANET.NUM_CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (7, 7)
    assert class_count(cfg) == 7
    assert build_detector(cfg).num_classes == 7
    cfg = load_config("faster_rcnn_tiny", num_classes=2)
    assert build_detector(cfg).roi_heads.num_classes == 2


@pytest.mark.parametrize("wrong", [0, -1, 2.0, "3", True])
def test_num_classes_must_be_a_positive_integer(wrong):
    with pytest.raises(ValueError, match="`num_classes` to be an integer of at least 1"):
        load_config("retinanet_tiny", num_classes=wrong)


@pytest.mark.parametrize(
    "overrides",
    [
        ["SOLVER.BASE_LR=0.5", "TEST.DETECTIONS_PER_IMAGE=7"],
        ["SOLVER.BASE_LR", "0.5", "TEST.DETECTIONS_PER_IMAGE", "7"],
        {"SOLVER.BASE_LR": 0.5, "TEST.DETECTIONS_PER_IMAGE": 7},
        {"SOLVER": {"BASE_LR": 0.5}, "TEST": {"DETECTIONS_PER_IMAGE": 7}},
    ],
)
def test_overrides_in_every_form(overrides):
    cfg = load_config("retinanet_tiny", overrides)
    assert (cfg.SOLVER.BASE_LR, cfg.TEST.DETECTIONS_PER_IMAGE) == (0.5, 7)
    assert cfg.SOLVER.IMS_PER_BATCH == load_config("retinanet_tiny").SOLVER.IMS_PER_BATCH


def test_a_configuration_node_is_copied():
    cfg = load_config("retinanet_tiny")
    cfg.freeze()
    changed = load_config(cfg, {"SOLVER.BASE_LR": 0.5})
    assert changed.SOLVER.BASE_LR == 0.5
    assert cfg.SOLVER.BASE_LR == 0.01


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["SOLVER.BASE_LRR=1.0"],
            r"the overrides to have keys .* but got 'SOLVER.BASE_LRR'\. Did you mean 'SOLVER.BASE_",
        ),
        (["SOLVER.BASE_LR.X=1.0"], "but got 'SOLVER.BASE_LR.X'"),
        (["SOLVER=1.0"], "'SOLVER' in the overrides to be a section"),
        (["SOLVER.BASE_LR=much"], "does not have Detectron2's type"),
        (["SOLVER.BASE_LR", "1.0", "SEED"], "an even number of strings"),
        ({"_BASE_": "x.yaml"}, "Expected `_BASE_` in YAML files only"),
        ({"VERSION": 1}, "to have VERSION 2"),
    ],
)
def test_wrong_overrides_say_what_is_expected(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config("retinanet_tiny", overrides)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"one of the names .*retinanet_tiny, but got 'retinanet_R_18'"):
        load_config("retinanet_R_18")


def test_base_files_are_merged_relative_to_the_file(tmp_path):
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "a.yaml").write_text(
        "SOLVER: {BASE_LR: 0.3, MAX_ITER: 5}\nMODEL: {META_ARCHITECTURE: RetinaNet}"
    )
    (tmp_path / "bases" / "b.yaml").write_text("_BASE_: a.yaml\nSOLVER: {MAX_ITER: 6}")
    (tmp_path / "c.yaml").write_text("SEED: 4")
    (tmp_path / "mine.yaml").write_text("_BASE_: [bases/b.yaml, c.yaml]\nSOLVER:\n  GAMMA: 0.5")
    cfg = load_config(tmp_path / "mine.yaml")
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.GAMMA, cfg.SEED) == (0.3, 6, 0.5, 4)
    assert cfg.MODEL.META_ARCHITECTURE == "RetinaNet"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SEED: !!python/object/apply:os.getpid []", "a YAML tag that would run code"),
        ("_BASE_: bad.yaml", "got a circle"),
        ("_BASE_: none.yaml", r"Expected a YAML file at .*none\.yaml, but there is none"),
        ("_BASE_: https://example.org/a.yaml", "to be a local file"),
        ("SEED: [1", "to be YAML, but it cannot be read"),
        ("- 1", "to hold a mapping of Detectron2 keys, but got list"),
        ("", "to hold a mapping of Detectron2 keys, but got NoneType"),
        ("SEEED: 1", r"the configuration to have keys .* 'SEEED'\. Did you mean 'SEED'"),
    ],
)
def test_unreadable_files_say_why(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(path)


def test_a_tag_in_yaml_runs_nothing(tmp_path):
    path, victim = tmp_path / "bad.yaml", tmp_path / "made"
    path.write_text(f"SEED: !!python/object/apply:os.mkdir ['{victim}']")
    with pytest.raises(ValueError, match="refused"):
        load_config(path)
    assert not victim.exists()


@pytest.mark.parametrize("name", FULL_SIZE + TINY)
def test_portable_config_is_plain_and_complete(name):
    cfg = load_config(name, {"SOLVER.BASE_LR": 0.125}, num_classes=4)
    plain = portable_config(cfg)
    assert load_config(plain) == cfg
    assert plain["SOLVER"]["BASE_LR"] == 0.125
    assert "CUDNN_BENCHMARK" not in plain
    assert type(plain) is type(plain["MODEL"]) is dict


def test_registering_the_backbone_twice_is_harmless():
    register_tiny_backbone()
    register_tiny_backbone()
    assert TINY_BACKBONE in BACKBONE_REGISTRY


def test_the_seed_decides_the_initial_weights():
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_detector(load_config("retinanet_tiny")).state_dict())
    key = "head.cls_subnet.0.weight"
    assert torch.equal(states[0][key], states[1][key])
    assert not torch.equal(states[0][key], states[2][key])
