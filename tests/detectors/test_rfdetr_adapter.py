from functools import cache

import pytest
import torch
from helpers.finite_differences import assert_equals_differences, gradients_and_differences
from helpers.tiny_detr import CLASSES, QUERIES, rfdetr_config, tiny_rfdetr
from lightning.pytorch import LightningModule
from torch import nn
from torchvision.transforms.functional import normalize, resize

pytest.importorskip("rfdetr")

from odsg_lightning import resolve_adapter
from odsg_lightning.detectors.rfdetr import RfdetrAdapter
from odsg_lightning.errors import UserInputError

IMAGE = torch.rand(3, 48, 80, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 255
pytestmark = pytest.mark.filterwarnings("ignore:.*pretrain_weights=None")


@cache
def model():
    return tiny_rfdetr().double()


def detections(detector, image=IMAGE):
    with torch.no_grad():
        return detector.detect([image])[0]


def unclipped(detector):
    boxes = detections(detector).boxes
    most = boxes.new_tensor([80, 48, 80, 48])
    return int(((boxes > 0.1) & (boxes < most - 0.1)).all(dim=1).nonzero()[0])


def test_gradients_through_refinement_equal_finite_differences():
    detector = RfdetrAdapter(model(), through_refinement=True)
    index = unclipped(detector)
    assert_equals_differences(detector, IMAGE, index)
    last, whole = gradients_and_differences(RfdetrAdapter(model()), IMAGE, index)
    assert ((last - whole).abs().amax(dim=1) > 0.01 * whole.abs().amax(dim=1))[:4].all()


def test_detections_are_the_packages_own_in_pixels_of_the_image():
    from rfdetr.models.postprocess import PostProcess

    found = detections(RfdetrAdapter(model(), num_select=5))
    with torch.no_grad():
        image = resize(IMAGE / 255, [64, 64], antialias=False)  # as RFDETR.predict
        outputs = model()(normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])[None])
        (own,) = PostProcess(num_select=5)(outputs, torch.tensor([[48, 80]]))
    assert len(found) == 5
    assert torch.equal(found.boxes, own["boxes"])
    assert torch.equal(found.scores, own["scores"])
    assert torch.equal(found.labels, own["labels"])
    assert found.labels.max() <= CLASSES


def test_labels_of_91_outputs_are_categories_of_coco():
    class Published(type(model())):
        def forward(self, samples):
            logits = torch.full((1, 2, 91), -5.0)
            logits[0, 0, 18], logits[0, 1, 12] = 5.0, 4.0  # a dog; no category has the id 12
            return {"pred_logits": logits, "pred_boxes": torch.full((1, 2, 4), 0.5)}

    published = tiny_rfdetr()
    published.__class__ = Published
    published.class_embed = nn.Linear(32, 91)
    with torch.no_grad():
        (found,) = RfdetrAdapter(published, num_select=2).detect([IMAGE.float()])
    assert found.labels.tolist() == [16]  # of 80


def test_a_model_with_keypoints_is_refused():
    other = tiny_rfdetr()
    other.use_grouppose_keypoints = True
    with pytest.raises(UserInputError, match="without keypoints, but got one with keypoints"):
        RfdetrAdapter(other)


def test_found_in_a_module_of_ones_own():
    class Mine(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

    assert resolve_adapter(Mine()).model is model()


def test_of_the_packages_module_the_weights_of_validation_are_audited():
    module_model = pytest.importorskip("rfdetr.training.module_model")
    from pytorch_lightning import Trainer
    from rfdetr.config import TrainConfig
    from rfdetr.training.callbacks.ema import RFDETREMACallback

    module = module_model.RFDETRModelModule(rfdetr_config(), TrainConfig(dataset_dir=".", output_dir="."))
    adapter = resolve_adapter(module)
    assert adapter.model is module.model
    average = RFDETREMACallback()
    module.trainer = Trainer(callbacks=[average], logger=False, enable_checkpointing=False, accelerator="cpu")
    average.on_fit_start(module.trainer, module)
    averaged = resolve_adapter(module).model
    assert averaged is average._average_model.module.model
    assert averaged is not module.model
    module.train_config.eval_base_model = True
    assert resolve_adapter(module).model is module.model
    assert len(detections(resolve_adapter(module.eval()), IMAGE.float())) == QUERIES
