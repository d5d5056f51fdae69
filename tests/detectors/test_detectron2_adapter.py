import copy

import pytest
import torch
from captum.attr import NoiseTunnel, Saliency
from helpers.engine_cases import first, image_with, unclipped
from torchvision.ops import box_iou

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.pairing import pair_detections
from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.gradients import linearize
from odsg_lightning.saliency.masks import defined_maps
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.smoothgrad import smoothgrad

CONFIDENT = AuditConfig(score_threshold=0.3)


def found_in_every_sample(trained, n_samples, seed):
    """Return an image, its clean detections, the index of one that no noise hides, and the saliency of that one."""
    detector = Detectron2Adapter(trained.model)
    with isolated(trained.model):
        for sample in trained.samples:
            with torch.no_grad():
                (reference,) = detector.detect([sample.image])
            pairs, _ = pair_detections(sample, reference, CONFIDENT)
            for index in pairs[pairs >= 0].tolist():
                generator = torch.Generator().manual_seed(seed)
                (found,) = smoothgrad(
                    detector, sample.image, reference, [index], generator=generator, n_samples=n_samples
                )
                withstands_noise = found.matched_samples == n_samples and defined_maps(found.maps).all()
                if withstands_noise and stands_alone(reference, index):
                    return sample, reference, index, found
    raise AssertionError("the trained detector found nothing that withstands noise")


def stands_alone(detections, index):
    """Whether what overlaps a detection by 0.7, as a match does, can overlap no other one of its class so much."""
    overlap = box_iou(detections.boxes[[index]], detections.boxes)[0]
    same = detections.labels == detections.labels[index]
    return int((same & (overlap >= 0.4)).sum()) == 1  # Jaccard distances obey the triangle inequality: 0.3 + 0.3


@pytest.fixture(params=["trained_retinanet", "trained_faster_rcnn"])
def trained(request):
    return request.getfixturevalue(request.param)


@pytest.mark.slow
class TestTrained:
    def test_detections_are_those_of_the_model_itself(self, trained):
        adapter = Detectron2Adapter(trained.model)
        image = image_with(adapter, [sample.image for sample in trained.samples], 1)
        with torch.no_grad():
            (found,) = adapter.detect([image])
            instances = trained.model([{"image": image.flip(0)}])[0]["instances"]  # BGR, as its configuration says
        assert len(found) > 0
        assert torch.equal(found.boxes, instances.pred_boxes.tensor)
        assert torch.equal(found.scores, instances.scores)
        assert torch.equal(found.labels, instances.pred_classes)

    def test_rgb_models_get_rgb(self, trained):
        adapter = Detectron2Adapter(trained.model, input_format="RGB")
        image = image_with(adapter, [sample.image for sample in trained.samples], 1)
        with torch.no_grad():
            (found,) = adapter.detect([image])
            instances = trained.model([{"image": image}])[0]["instances"]
        assert torch.equal(found.boxes, instances.pred_boxes.tensor)

    def test_equals_captum_with_the_same_noise(self, trained):
        n_samples = 3
        sample, reference, index, found = found_in_every_sample(trained, n_samples, seed=11)

        def number(pixels, parameter):
            """Captum's forward function: one parameter of the detection nearest to the reference."""
            instances = trained.model([{"image": pixels[0].flip(0)}])[0]["instances"]
            overlap = torch.tensor(
                [
                    _iou(reference.boxes[index].tolist(), box) if label == reference.labels[index] else -1.0
                    for box, label in zip(
                        instances.pred_boxes.tensor.tolist(), instances.pred_classes.tolist(), strict=True
                    )
                ]
            )
            best = int(overlap.argmax())
            values = torch.cat([instances.pred_boxes.tensor[best], instances.scores[best, None]])
            return values[parameter][None]

        tunnel = NoiseTunnel(Saliency(number))
        with isolated(trained.model):
            for parameter, name in enumerate(PARAMETERS):
                torch.manual_seed(11)  # captum draws from the global stream, one sample at a time
                samples = [
                    tunnel.attribute(
                        sample.image[None],
                        nt_samples=1,
                        stdevs=0.05 * 255,
                        additional_forward_args=(parameter,),
                    ).detach()
                    for _ in range(n_samples)
                ]
                expected = torch.cat(samples).amax(1).mean(0)
                difference = (found.maps[parameter] - expected).abs().max() / expected.max()
                assert difference < 1e-5, name

    def test_audit_of_the_whole_set_is_bit_identical_when_repeated(self, trained):
        def maps(samples):
            with isolated(trained.model):
                config = AuditConfig(score_threshold=0.3, n_samples=2)
                objects = list(audit(Detectron2Adapter(trained.model), samples, config))
            return [found.explained.saliency.maps.nan_to_num(-1) for found in objects if not found.missed]

        start = first(range(len(trained.samples)), lambda index: maps([trained.samples[index]]))
        samples = trained.samples[start : start + 3]
        one, again = maps(samples), maps(samples)
        assert len(one) > 0
        assert torch.equal(torch.stack(one), torch.stack(again))


@pytest.mark.slow
def test_gradient_equals_finite_differences(trained_retinanet, monkeypatch):
    # For RetinaNet alone: Faster R-CNN's boxes depend on its proposals too, which Detectron2 detaches.
    nms = torch.ops.torchvision.nms  # Detectron2 decodes boxes in single precision: a step must not be too small
    monkeypatch.setattr("torchvision.ops.boxes.nms", lambda boxes, scores, iou: nms(boxes, scores.float(), iou))
    detector = Detectron2Adapter(copy.deepcopy(trained_retinanet.model).double())
    image = image_with(detector, [sample.image.double() for sample in trained_retinanet.samples], 1)
    linearization = linearize(detector, image)
    best = unclipped(linearization.detections, image)[0]
    (local,) = linearization.gradients([best])
    gradient = local.values

    def numbers(pixels):
        with torch.no_grad():
            (found,) = detector.detect([pixels])
        reference = linearization.detections
        matches, _ = match_one_to_one(reference.boxes[[best]], reference.labels[[best]], found.boxes, found.labels, 0.9)
        assert matches[0] >= 0
        return found.parameters[matches[0]]

    direction = gradient.sum(0) / gradient.sum(0).abs().max()  # along which all five numbers change noticeably
    step = 0.02  # grey levels
    numeric = (numbers(image + step * direction) - numbers(image - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum((1, 2, 3)), numeric.double(), rtol=0.02, atol=1e-4)


def _iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["retinanet_R_50_FPN", "faster_rcnn_R_50_FPN", "faster_rcnn_R_50_C4", "faster_rcnn_R_50_DC5"]
)
def test_full_size_architectures_differentiate(name):
    torch.manual_seed(0)
    overrides = {
        "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
        "TEST.DETECTIONS_PER_IMAGE": 5,
    }
    model = build_detector(load_config(name, overrides, num_classes=3)).eval()
    for part, parameter in model.named_parameters():
        if part.endswith("conv3.weight"):
            parameter.data.mul_(0.1)  # without trained statistics, sixteen residual blocks overflow
    image = torch.rand(3, 96, 128) * 255
    linearization = linearize(Detectron2Adapter(model), image)
    assert len(linearization.detections) > 0
    (local,) = linearization.gradients([0])
    gradient = local.values
    assert gradient.shape == (5, 3, 96, 128)
    assert gradient.isfinite().all()
    assert gradient[4].abs().max() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.fixture
def tiny():
    return build_detector(load_config("retinanet_tiny")).eval()


def test_several_images_of_different_size(tiny):
    images = [torch.rand(3, 64, 96) * 255, torch.rand(3, 80, 64) * 255]
    assert len(Detectron2Adapter(tiny).detect(images)) == 2


def test_training_mode_is_refused(tiny):
    with pytest.raises(RuntimeError, match="Expected the detector in eval mode"):
        Detectron2Adapter(tiny.train()).detect([torch.rand(3, 64, 64)])


def test_half_precision_is_refused(tiny):
    with pytest.raises(
        RuntimeError, match=r"Expected parameters of single or double precision, but got torch.bfloat16"
    ):
        Detectron2Adapter(tiny.bfloat16()).detect([torch.rand(3, 64, 64)])


def test_other_models_and_formats_are_refused(tiny):
    with pytest.raises(ValueError, match="Expected a Detectron2 RetinaNet or GeneralizedRCNN, but got Linear"):
        Detectron2Adapter(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="Expected argument `input_format` to be 'BGR' or 'RGB', but got 'YUV'"):
        Detectron2Adapter(tiny, input_format="YUV")
