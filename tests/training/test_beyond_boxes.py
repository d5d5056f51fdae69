"""Detectors of Detectron2 that predict more than boxes, or in several stages: which fine-tune, and are audited."""

import json

import pytest
import torch
import yaml
from detectron2.structures import RotatedBoxes
from helpers.runs import trainer_with
from helpers.tiny_detection import TinyDataModule, make_sample, make_trainer

from odsg_lightning import CocoDetectionDataModule, DetectionModule, ODSmoothGradCallback, resolve_adapter
from odsg_lightning.checkpoints.detector import load_detector
from odsg_lightning.demo.shapes import make_shapes
from odsg_lightning.detectors.build import build_detector, load_config, portable_config
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.detectors.detectron2_names import Instances
from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.records.record import read_record
from odsg_lightning.training.detectron2_batch import training_inputs

FEW = {"MODEL.RPN.POST_NMS_TOPK_TEST": 20, "TEST.DETECTIONS_PER_IMAGE": 5, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0}
MASKS = FEW | {"MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.NUM_CONV": 1, "MODEL.ROI_MASK_HEAD.CONV_DIM": 16}
CASCADE = FEW | {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True}
KEYPOINTS = FEW | {"MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [16]}


@pytest.fixture(scope="module")
def data_settings(tmp_path_factory):
    shapes = make_shapes(tmp_path_factory.mktemp("shapes"), n_train=2, n_val=1, size=64)
    return {
        "train_annotations": shapes.train_annotations,
        "train_images": shapes.train_images,
        "val_annotations": shapes.val_annotations,
        "val_images": shapes.val_images,
        "min_size": 64,
        "min_size_eval": 64,
        "num_workers": 0,
        "audit_images": 1,
    }


@pytest.mark.parametrize(("overrides", "loss"), [(MASKS, "loss_mask"), (CASCADE, "loss_cls_stage2")])
@pytest.mark.filterwarnings("ignore:The run ends after 1 optimizer steps")
def test_fine_tunes_and_is_audited(overrides, loss, data_settings, tmp_path):
    torch.manual_seed(0)
    module = DetectionModule("faster_rcnn_tiny", overrides=overrides, num_classes="auto")
    settings = {"score_threshold": 0.0, "pair_iou": 0.05, "n_samples": 1, "occlusion": False, "max_strips": 0}
    audit = ODSmoothGradCallback(**settings, save_records=True, on_error="raise", drift=False)
    trainer = trainer_with([audit], tmp_path, max_steps=1, val_check_interval=1)
    trainer.fit(module, datamodule=CocoDetectionDataModule(**data_settings))
    assert trainer.callback_metrics[f"train/{loss}"] > 0
    assert audit.n_audits == 1
    (record,) = map(read_record, tmp_path.rglob("step_*.json"))
    assert not all(row.missed for row in record.objects)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert detects(load_detector(tmp_path / "model.ckpt"))


def detects(module):
    with torch.no_grad():
        return len(resolve_adapter(module.eval()).detect([torch.rand(3, 64, 64) * 255])[0]) > 0


def test_masks_reach_detectron2_and_are_asked_for_where_they_are_missing():
    sample = make_sample(0) | {"masks": torch.rand(2, 64, 64) > 0.5}
    (inputs,) = training_inputs([sample], "BGR", masks=True)
    assert torch.equal(inputs["instances"].gt_masks.tensor, sample["masks"])
    assert not training_inputs([sample], "BGR")[0]["instances"].has("gt_masks")
    module = DetectionModule("faster_rcnn_tiny", overrides=MASKS)
    with pytest.raises(UserInputError, match=r"Expected `masks` \[G, H, W\] in each sample .* MODEL.MASK_ON is true"):
        make_trainer().fit(module, datamodule=TinyDataModule())


def test_a_file_without_masks_is_refused_for_a_mask_r_cnn(data_settings, tmp_path):
    content = json.loads(data_settings["train_annotations"].read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = CocoDetectionDataModule(**data_settings | {"train_annotations": tmp_path / "train.json"})
    with pytest.raises(UserInputError, match=r"train.json to have segmentations, because the detector is trained on"):
        make_trainer().fit(DetectionModule("faster_rcnn_tiny", overrides=MASKS), datamodule=data)


def test_keypoints_are_audited_by_their_boxes_but_not_trained(tmp_path):
    with pytest.raises(UserInputError, match=r"Expected MODEL.KEYPOINT_ON to be false, because no keypoints are read"):
        DetectionModule("faster_rcnn_tiny", overrides=KEYPOINTS)
    model = build_detector(load_config("faster_rcnn_tiny", KEYPOINTS))
    assert detects(model)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    assert detects(load_detector(tmp_path / "model.pth", written(KEYPOINTS, tmp_path)))


def written(overrides, folder):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(portable_config(load_config("faster_rcnn_tiny", overrides))))
    return path


def test_rotated_boxes_are_refused_in_training_in_checkpoints_and_where_they_are_returned(tmp_path):
    rotated = {"MODEL.ANCHOR_GENERATOR.NAME": "RotatedAnchorGenerator", "MODEL.PROPOSAL_GENERATOR.NAME": "RRPN"}
    message = r"upright boxes, but got RotatedAnchorGenerator, RRPN: rotated boxes have no x_min"
    with pytest.raises(UserInputError, match=message):
        DetectionModule("faster_rcnn_tiny", overrides=rotated)
    torch.save({"model": {}}, tmp_path / "model.pth")
    with pytest.raises(BrokenInputError, match=message):
        load_detector(tmp_path / "model.pth", written(rotated, tmp_path))

    model = build_detector(load_config("faster_rcnn_tiny")).eval()
    found = Instances((64, 64), pred_boxes=RotatedBoxes(torch.zeros(1, 5)))
    model.forward = lambda asked: [{"instances": found}]
    with pytest.raises(RuntimeError, match=r"axis-aligned boxes \(XYXY\), but the model returned RotatedBoxes"):
        Detectron2Adapter(model).detect([torch.zeros(3, 64, 64)])


def test_cascade_is_explained_by_its_last_stage_in_plain_autograd():
    model = build_detector(load_config("faster_rcnn_tiny", CASCADE)).eval()
    adapter = Detectron2Adapter(model)
    assert adapter.choose_engine().name == "autograd"
    image = (torch.rand(3, 64, 64) * 255).requires_grad_()
    stages = []
    model.roi_heads.box_predictor[0].register_forward_hook(lambda _, args, outputs: stages.append(outputs))
    (found,) = adapter.detect([image])
    logits, deltas = stages[0]
    ((by_delta,), (by_logit,)) = (
        torch.autograd.grad(number, leaf, retain_graph=True, allow_unused=True)
        for number, leaf in ((found.boxes[0, 0], deltas), (found.scores[0], logits))
    )
    assert by_delta is None  # Detectron2 detaches the boxes between its stages
    assert by_logit.abs().max() > 0  # and averages the scores of all
    with pytest.raises(UserInputError, match=r"one box predictor of upright boxes, to explain logits"):
        adapter.candidates_of_detections(image.detach())
