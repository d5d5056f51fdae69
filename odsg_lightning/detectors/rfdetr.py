"""RF-DETR as a differentiable detector."""

from collections.abc import Mapping, Sequence
from inspect import unwrap
from typing import Any

import torch
from rfdetr.assets.coco_classes import COCO_CLASSES
from rfdetr.models.lwdetr import LWDETR
from rfdetr.models.postprocess import PostProcess
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms.functional import normalize

from odsg_lightning.detectors.model_adapter import ModelAdapter
from odsg_lightning.detectors.whole_graph import WholeGraph
from odsg_lightning.errors import UserInputError

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, which every RF-DETR is trained with
_OF_COCO = 91
"""Outputs of the published weights, whose labels are COCO's category ids."""


class RfdetrAdapter(ModelAdapter):
    """Explains what RF-DETR returns: the best pairs of query and class, their boxes clipped to the image.

    The package does this without a graph; here its own code is run with one. The image is divided by 255, resized to a
    square and normalised as in ``RFDETR.predict``; boxes and gradients are in pixels of the image that was given.

    RF-DETR detaches the boxes that its encoder proposes. By default the maps are of the model's own graph: what the
    *last* refinement looks at. ``through_refinement=True`` gives the gradient of the whole function.

    Args:
        model: the network, ``RFDETRNano().model.model``, in eval mode and single precision. A model with masks is
            audited by its boxes.
        resolution: side of the square, in pixels; by default what the network was built for.
        num_select: most detections of an image.
        labels: the model's label of each class, in the order of the COCO file's category ids; detections of other
            labels are left out. By default 0, 1, ..., as RF-DETR numbers the categories that it is fine-tuned on; for a
            network of 91 outputs, as the published ones, COCO's category ids.
        through_refinement: whether gradients go through the proposed boxes, too.

    Raises:
        UserInputError: another kind of model, or one with keypoints, which change its scores.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        resolution: int | None = None,
        num_select: int = 300,
        labels: Sequence[int] | None = None,
        through_refinement: bool = False,
    ) -> None:
        """See the class for the arguments."""
        if not isinstance(model, LWDETR) or model.use_grouppose_keypoints:
            what = "with keypoints" if isinstance(model, LWDETR) else type(model).__name__
            raise UserInputError(
                f"Expected RF-DETR's network (`RFDETRNano().model.model`) without keypoints, but got one {what}."
            )
        if labels is None and model.class_embed.out_features == _OF_COCO:
            labels = sorted(COCO_CLASSES)
        super().__init__(model, labels)
        backbone: Any = model.backbone
        self._resolution = resolution or int(backbone[0].encoder.shape[0])
        self._post_process = PostProcess(num_select)
        self._through_refinement = through_refinement
        self.explained_with = {"through_refinement": True} if through_refinement else {}

    def _found(self, images: Sequence[Tensor]) -> Sequence[Mapping[str, Tensor]]:
        sizes = torch.tensor([image.shape[1:] for image in images], device=images[0].device)
        with WholeGraph(through_refinement=self._through_refinement):
            outputs = self.model(torch.stack([self._preprocessed(image) for image in images]))
            of_boxes = {name: outputs[name] for name in ("pred_logits", "pred_boxes")}
            found: list[dict[str, Tensor]]
            found = unwrap(PostProcess.forward)(self._post_process, of_boxes, sizes)  # without its no_grad
        return found

    def _preprocessed(self, image: Tensor) -> Tensor:
        square = interpolate(image[None] / 255, size=(self._resolution, self._resolution), mode="bilinear")
        normalized: Tensor = normalize(square[0], _MEAN, _STD)
        return normalized


def is_detector(module: nn.Module) -> bool:
    """Whether a module is RF-DETR's network, or the package's LightningModule around it."""
    return isinstance(module, LWDETR) or _is_training_module(module)


def adapter_of(model: nn.Module, module: nn.Module) -> RfdetrAdapter:
    """Return the adapter of RF-DETR's network.

    Of the package's LightningModule it takes the weights that validation uses now: the exponential moving average
    where the Trainer keeps one, unless ``TrainConfig.eval_base_model`` says otherwise.

    Args:
        model: as :func:`is_detector` recognises it.
        module: what it is inside of, or the model itself.
    """
    if not _is_training_module(model):
        return RfdetrAdapter(model)
    trained: Any = model
    network = getattr(trained, "_resolve_eval_model", lambda: trained.model)()
    network = getattr(network, "_orig_mod", network)  # torch.compile's wrapper
    return RfdetrAdapter(
        network, resolution=trained.model_config.resolution, num_select=trained.model_config.num_select
    )


def _is_training_module(module: nn.Module) -> bool:
    """By name: the class is in a part of the package that not everybody has installed."""
    return any(f"{cls.__module__}.{cls.__name__}" == _TRAINING_MODULE for cls in type(module).__mro__)


_TRAINING_MODULE = "rfdetr.training.module_model.RFDETRModelModule"
