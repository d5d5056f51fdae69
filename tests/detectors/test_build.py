import subprocess
import sys

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, GeneralizedRCNN
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from torch import nn

from odsg_lightning.config_files import config_names, config_path
from odsg_lightning.detectors import build
from odsg_lightning.detectors.build import (
    build_detector,
    class_count,
    input_size,
    load_config,
    model_zoo_folder,
    portable_config,
    require_trainable,
    require_upright_boxes,
)
from odsg_lightning.detectors.tiny_backbone import TINY_BACKBONE, register_tiny_backbone
from odsg_lightning.errors import BrokenInputError, UserInputError

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
    list(zip(FULL_SIZE, [37.916, 56.855, 41.700, 60.640, 33.792, 165.581], strict=True)),
)
def test_full_size_detectors_build(name, millions):
    detector = build_detector(load_config(name))
    assert sum(parameter.numel() for parameter in detector.parameters()) / 1e6 == pytest.approx(millions, abs=6e-4)


@pytest.fixture
def installed_zoo():
    folder = model_zoo_folder()
    if not folder.is_dir():
        pytest.skip(f"this Detectron2 comes without its model zoo's files: there is no {folder}")
    return folder


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_configurations_are_those_of_the_model_zoo(installed_zoo, name):
    expected = get_cfg()
    expected.merge_from_file(str(installed_zoo / "COCO-Detection" / f"{name}_3x.yaml"), allow_unsafe=True)
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


class TestModelZoo:
    """A name of Detectron2's model zoo is looked up in Detectron2's own folder."""

    retinanet = "COCO-Detection/retinanet_R_50_FPN_3x.yaml"

    @pytest.fixture
    def zoo(self, tmp_path, monkeypatch):
        """A folder in the place of Detectron2's, with the outline of its RetinaNet; beside it, a file to escape to."""
        folder = tmp_path / "detectron2" / "model_zoo" / "configs"
        (folder / "COCO-Detection").mkdir(parents=True)
        (folder / "Base-RetinaNet.yaml").write_text("MODEL: {META_ARCHITECTURE: RetinaNet}\nSOLVER: {MAX_ITER: 90000}")
        (folder / self.retinanet).write_text("_BASE_: ../Base-RetinaNet.yaml\nSOLVER: {STEPS: [210000, 250000]}")
        (folder / "COCO-Detection" / "fast_rcnn_R_50_FPN_1x.yaml").write_text("SEED: 1")
        (folder.parent / "secret.yaml").write_text("SEED: 7")
        monkeypatch.setattr(build, "model_zoo_folder", lambda: folder)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        return folder

    def test_a_name_is_found_with_its_base(self, zoo):
        cfg = load_config(self.retinanet, ["SEED=3"], num_classes=4)
        assert cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
        assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (90000, (210000, 250000))
        assert (cfg.SEED, cfg.MODEL.RETINANET.NUM_CLASSES) == (3, 4)

    def test_a_file_of_the_same_name_goes_first(self, zoo, tmp_path):
        mine = tmp_path / "elsewhere" / self.retinanet
        mine.parent.mkdir()
        mine.write_text("SEED: 5")
        assert load_config(self.retinanet).SEED == 5

    def test_a_name_of_this_project_goes_first(self, zoo):
        (zoo / "retinanet_tiny").write_text("SEED: 5")
        assert load_config("retinanet_tiny").MODEL.BACKBONE.NAME == TINY_BACKBONE

    @pytest.mark.parametrize(
        "name",
        [
            "../secret.yaml",
            "COCO-Detection/../../secret.yaml",
            "./../secret.yaml",
            "COCO-Detection/./../../secret.yaml",
            "../configs/COCO-Detection/retinanet_R_50_FPN_3x.yaml",  # by way of outside
        ],
    )
    def test_no_name_leads_out_of_the_folder(self, zoo, name):
        assert (zoo / name).is_file()  # where it would lead
        with pytest.raises(UserInputError, match="or a name of Detectron2's model zoo, but got"):
            load_config(name)

    @pytest.mark.parametrize("name", ["/COCO-Detection/retinanet_R_50_FPN_3x.yaml", "COCO-Detection", "", "."])
    def test_no_absolute_path_and_no_folder(self, zoo, name):
        with pytest.raises(UserInputError, match="or a name of Detectron2's model zoo, but got"):
            load_config(name)

    @pytest.mark.parametrize(
        ("typo", "meant"),
        [
            ("COCO-Detection/retinanet_R_50_FPN_3.yaml", retinanet),
            ("COCO-Detection/retinanet_R_50_FPN_3x.yml", retinanet),
            ("COCO-Detection/retinanet_R_50_FPN_3x", retinanet),
            ("coco-detection/retinanet_R_50_FPN_3x.yaml", retinanet),
            ("COCO-Detection/fast_rcn_R_50_FPN_1x.yaml", "COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml"),
        ],
    )
    def test_a_typo_is_guessed(self, zoo, typo, meant):
        with pytest.raises(UserInputError) as refused:
            load_config(typo)
        assert f"but got {typo!r}. Did you mean {meant!r}, of Detectron2's model zoo?" in str(refused.value)

    def test_what_resembles_nothing_is_not_guessed(self, zoo):
        with pytest.raises(UserInputError, match=r"but got 'x\.yaml'\.$"):
            load_config("x.yaml")

    def test_without_the_folder_there_are_the_projects_own_names(self, tmp_path, monkeypatch):
        monkeypatch.setattr(build, "model_zoo_folder", lambda: tmp_path / "none")
        assert load_config("retinanet_tiny")
        with pytest.raises(UserInputError, match=r"retinanet_tiny, or a name of .*_3x\.yaml'\.$"):
            load_config(self.retinanet)

    @pytest.mark.parametrize("name", FULL_SIZE)
    def test_the_names_of_the_installed_one(self, installed_zoo, name):
        found = load_config(f"COCO-Detection/{name}_3x.yaml")
        found.MODEL.WEIGHTS = ""
        assert found == load_config(name)

    def test_every_file_of_the_installed_one_can_be_read(self, installed_zoo):
        names = [path.relative_to(installed_zoo).as_posix() for path in installed_zoo.rglob("*.yaml")]
        assert len(names) > 50
        for name in names:
            assert load_config(name), name


EXPRESSION = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"
"""The one that Detectron2's model zoo has YAML run."""


def with_expression(path, expression):
    path.write_text(f'MODEL: {{ANCHOR_GENERATOR: {{SIZES: !!python/object/apply:eval ["{expression}"]}}}}')
    return path


def test_the_model_zoo_s_expression_is_known_without_being_run(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.eval", None)
    path = with_expression(tmp_path / "a.yaml", EXPRESSION)
    expected = load_config("retinanet_R_50_FPN").MODEL.ANCHOR_GENERATOR.SIZES
    assert expected == load_config(path).MODEL.ANCHOR_GENERATOR.SIZES


def test_a_changed_configuration_does_not_change_what_is_read_next(tmp_path):
    path = with_expression(tmp_path / "a.yaml", EXPRESSION)
    load_config(path).MODEL.ANCHOR_GENERATOR.SIZES[0].append(9.0)
    assert load_config(path).MODEL.ANCHOR_GENERATOR.SIZES[0] == [32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]


@pytest.mark.parametrize("expression", [f"{EXPRESSION} ", f"({EXPRESSION})", "1", "__import__('os').getpid()", ""])
def test_any_other_expression_is_refused(tmp_path, expression):
    with pytest.raises(BrokenInputError, match="a YAML tag that would run code, which is refused"):
        load_config(with_expression(tmp_path / "a.yaml", expression))


def test_config_path_lists_what_there_is():
    with pytest.raises(UserInputError, match=r"but got 'detectors/resnet'\. There are: .*detectors/retinanet_tiny"):
        config_path("detectors/resnet")


def test_config_path_stays_inside_the_folder():
    with pytest.raises(UserInputError, match="one of the project's configurations"):
        config_path("../pyproject.toml")


def test_files_are_found_from_another_working_directory(tmp_path):
    code = "from odsg_lightning.config_files import config_path; print(config_path('detectors/retinanet_tiny').name)"
    output = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True, timeout=600)
    assert output.strip() == "retinanet_tiny.yaml"


def test_num_classes_sets_both_heads():
    cfg = load_config("retinanet_tiny", num_classes=7)
    assert (cfg.MODEL.RETINANET.NUM_CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES) == (7, 7)
    assert class_count(cfg) == 7
    assert build_detector(cfg).num_classes == 7
    cfg = load_config("faster_rcnn_tiny", num_classes=2)
    assert build_detector(cfg).roi_heads.num_classes == 2


@pytest.mark.parametrize("wrong", [0, -1, 2.0, "3", True])
def test_num_classes_must_be_a_positive_integer(wrong):
    with pytest.raises(UserInputError, match="`num_classes` to be an integer of at least 1"):
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
    with pytest.raises(UserInputError, match=message):
        load_config("retinanet_tiny", overrides)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserInputError, match=r"one of the names .*retinanet_tiny, or .*, but got 'retinanet_R_18'"):
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


_BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "\n".join(
    f"{one}: &{one} [{', '.join([f'*{before}'] * 10)}]" for before, one in zip("abcde", "bcdef", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SEED: !!python/object/apply:os.getpid []", "a YAML tag that would run code"),
        ("_BASE_: bad.yaml", "got a circle"),
        ("_BASE_: none.yaml", r"Expected a YAML file of Detectron2 keys at .*none\.yaml, but No such file"),
        ("_BASE_: .", "but it is a folder"),
        ("_BASE_: https://example.org/a.yaml", "to be a local file"),
        ("SEED: [1", r"Expected a YAML file of Detectron2 keys at .*bad\.yaml, but while parsing a flow sequence"),
        ("SEED: 1\nSEED: 2", "the key 'SEED' comes twice in line 2"),
        ("SEED: 1\nMODEL: {MASK_ON: true, MASK_ON: true}", "the key 'MASK_ON' comes twice in line 2"),
        (_BOMB, "its aliases stand for more than 20000 values"),
        ("- 1", "to hold a mapping of Detectron2 keys, but got list"),
        ("", "to hold a mapping of Detectron2 keys, but got NoneType"),
    ],
)
def test_unreadable_files_say_why(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(BrokenInputError, match=message):
        load_config(path)


def test_unknown_keys_of_a_file_say_why(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("SEEED: 1")
    with pytest.raises(UserInputError, match=r"the configuration to have keys .* 'SEEED'\. Did you mean 'SEED'"):
        load_config(path)


def test_a_tag_in_yaml_runs_nothing(tmp_path):
    path, victim = tmp_path / "bad.yaml", tmp_path / "made"
    path.write_text(f"SEED: !!python/object/apply:os.mkdir ['{victim}']")
    with pytest.raises(BrokenInputError, match="refused"):
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


class TestGroupNorm:
    """Detectron2 0.6 makes a normalisation of one channel to learn its name, when RetinaNet's head has one."""

    @staticmethod
    def as_in_0_6(cfg):
        nn.GroupNorm(32, 1)

    def test_of_retinanets_head_is_explained(self, monkeypatch):
        monkeypatch.setattr(build, "build_model", self.as_in_0_6)
        with pytest.raises(UserInputError, match=r"MODEL\.RETINANET\.NORM = 'GN': Detectron2 0\.6") as told:
            build_detector(load_config("retinanet_tiny", {"MODEL.RETINANET.NORM": "GN"}))
        assert "Use Detectron2 0.5 or main, or another normalisation." in str(told.value)
        assert "num_channels" in str(told.value.__cause__)

    @pytest.mark.parametrize(
        ("name", "overrides"),
        [
            ("retinanet_tiny", {"MODEL.RETINANET.NORM": ""}),  # which is its default
            ("faster_rcnn_tiny", {"MODEL.RETINANET.NORM": "GN"}),  # which it does not read
        ],
    )
    def test_of_another_part_is_not(self, monkeypatch, name, overrides):
        monkeypatch.setattr(build, "build_model", self.as_in_0_6)
        with pytest.raises(ValueError, match="num_channels") as raised:
            build_detector(load_config(name, overrides))
        assert type(raised.value) is ValueError

    def test_other_errors_are_not(self, monkeypatch):
        def fail(cfg):
            raise ValueError("something else")

        monkeypatch.setattr(build, "build_model", fail)
        with pytest.raises(ValueError, match=r"^something else$") as raised:
            build_detector(load_config("retinanet_tiny", {"MODEL.RETINANET.NORM": "GN"}))
        assert type(raised.value) is ValueError

    def test_with_the_installed_one_it_is_built_or_explained(self):
        cfg = load_config("retinanet_tiny", {"MODEL.RETINANET.NORM": "GN"})
        try:
            norms = [module for module in build_detector(cfg).head.modules() if isinstance(module, nn.GroupNorm)]
        except UserInputError as refused:
            told = str(refused)
        else:
            assert norms
            return
        assert "Detectron2 0.6 makes one of a single channel to learn its name" in told


def test_keypoints_are_not_trained_and_rotated_boxes_not_even_audited():
    for masks in (False, True):
        require_trainable(load_config("faster_rcnn_tiny", {"MODEL.MASK_ON": masks}))
    keypoints = load_config("faster_rcnn_tiny", {"MODEL.KEYPOINT_ON": True})
    require_upright_boxes(keypoints)
    with pytest.raises(UserInputError, match=r"MODEL.KEYPOINT_ON to be false, because no keypoints are read from"):
        require_trainable(keypoints)
    rotated = load_config(
        "faster_rcnn_tiny",
        {"MODEL.ANCHOR_GENERATOR.NAME": "RotatedAnchorGenerator", "MODEL.ROI_HEADS.NAME": "RROIHeads"},
    )
    for refuse in (require_trainable, require_upright_boxes):
        with pytest.raises(UserInputError, match=r"upright boxes, but got RotatedAnchorGenerator, RROIHeads: rotated"):
            refuse(rotated)


LAZY_YAML = "model: {_target_: detectron2.modeling.RetinaNet, num_classes: 3}\ntrain: {max_iter: 10}\n"


@pytest.mark.parametrize("name", ["lazy.py", "no_such.py", "COCO-Detection/retinanet_R_50_FPN_1x.py", "lazy.yaml"])
def test_a_lazy_config_is_named_with_what_to_give_instead(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lazy.py").write_text("from detectron2.config import LazyCall\n")
    (tmp_path / "lazy.yaml").write_text(LAZY_YAML)
    with pytest.raises(UserInputError, match=r"A LazyConfig is code, which is not run here\. Give the YAML .*--module"):
        load_config(name)


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("MODEL.BACKBONE.NAME", "BACKBONE"),
        ("MODEL.META_ARCHITECTURE", "META_ARCH"),
        ("MODEL.ROI_HEADS.NAME", "ROI_HEADS"),
        ("MODEL.ANCHOR_GENERATOR.NAME", "ANCHOR_GENERATOR"),
    ],
)
def test_a_part_that_nobody_has_registered_is_named_with_the_way_out(key, registry):
    cfg = load_config("faster_rcnn_tiny", {key: "build_my_own"})
    with pytest.raises(UserInputError, match=rf"'build_my_own' to be registered .* {registry}, .*audit_checkpoint\("):
        build_detector(cfg)


@pytest.mark.parametrize(
    ("shorter", "longer", "expected"),
    [(640, 1000, (640, 1000)), (0, 1000, None), (None, 1000, None), (640, None, None), (-640, 1000, None)],
)
def test_what_a_configuration_scales_images_to(shorter, longer, expected):
    cfg = load_config("retinanet_tiny", {"INPUT.MIN_SIZE_TEST": shorter, "INPUT.MAX_SIZE_TEST": longer})
    assert input_size(cfg) == expected
