"""Detectors of Hugging Face transformers (DETR, RT-DETR, D-FINE and their kin) as differentiable detectors."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import transformers
from torch import Tensor, nn

from odsg_lightning.detectors.model_adapter import ModelAdapter
from odsg_lightning.detectors.whole_graph import WholeGraph
from odsg_lightning.errors import UserInputError

PROCESSORS = {
    "DetrForObjectDetection": "DetrImageProcessor",
    "ConditionalDetrForObjectDetection": "ConditionalDetrImageProcessor",
    "DeformableDetrForObjectDetection": "DeformableDetrImageProcessor",
    "RTDetrForObjectDetection": "RTDetrImageProcessor",
    "RTDetrV2ForObjectDetection": "RTDetrImageProcessor",
    "DFineForObjectDetection": "RTDetrImageProcessor",
}
"""Models that are found by themselves, and the image processor that their published checkpoints come with."""

LEAST_SCORE = 0.05
"""Of what is returned, as Detectron2's. Hundreds of queries score less, many on an object that another one has found:
in a noise sample an object could be taken for one of these."""


class TransformersAdapter(ModelAdapter):
    """Explains what ``post_process_object_detection`` makes of a model's logits and boxes.

    The image processor resizes, rescales and normalises the image, and its graph is kept: boxes and gradients are in
    pixels of the image that was given. Scores are a softmax (DETR) or a sigmoid for each class (all others), as the
    processor computes them.

    RT-DETR, D-FINE, and Deformable DETR with two stages or box refinement, detach their boxes between decoder layers.
    By default the maps are of the model's own graph: what the *last* refinement looks at.
    ``through_refinement=True`` gives the gradient of the whole function.

    Args:
        model: an object detector of transformers, in eval mode and single precision.
        processor: the image processor that the model was trained with; by default the one that transformers' own
            checkpoints of this kind of model come with, with its default settings (RT-DETR: 640 x 640 pixels; DETR:
            the shorter side 800), which a warning says.
        labels: the model's label of each class, in the order of the COCO file's category ids; detections of other
            labels are left out. By default the labels of ``config.id2label`` in order, those named ``N/A`` left out:
            the published DETR has COCO's category ids as labels, and such gaps.
        through_refinement: whether gradients go through the boxes between decoder layers, too.

    Raises:
        UserInputError: a processor that returns no graph, or a kind of model whose processor is not known.

    Example:
        >>> import torch
        >>> from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessor, RTDetrResNetConfig
        >>> sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "layer_type": "basic"}
        >>> backbone = RTDetrResNetConfig(**sizes, out_features=["stage2", "stage3", "stage4"])
        >>> config = RTDetrConfig(
        ...     backbone_config=backbone, encoder_in_channels=[8, 8, 8], encoder_hidden_dim=16, d_model=16,
        ...     decoder_in_channels=[16, 16, 16], decoder_layers=2, num_queries=10, num_labels=2,
        ... )
        >>> model = RTDetrForObjectDetection(config).eval()
        >>> processor = RTDetrImageProcessor(size={"height": 64, "width": 64})
        >>> [detections] = TransformersAdapter(model, processor).detect([torch.zeros(3, 48, 96)])
        >>> detections.boxes.shape[1]
        4
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any = None,
        *,
        labels: Sequence[int] | None = None,
        through_refinement: bool = False,
    ) -> None:
        """See the class for the arguments."""
        self.processor = _default_processor(model) if processor is None else processor
        if getattr(self.processor, "backend", "torchvision") != "torchvision":
            raise UserInputError(
                f"Expected an image processor that computes in PyTorch, but {type(self.processor).__name__} turns "
                "images into NumPy arrays, which have no gradient. Load it with "
                "`AutoImageProcessor.from_pretrained(..., backend='torchvision')`."
            )
        super().__init__(model, _labels_of(model) if labels is None else list(labels))
        self._through_refinement = through_refinement
        self.explained_with = {"through_refinement": True} if through_refinement else {}

    def _found(self, images: Sequence[Tensor]) -> Sequence[Mapping[str, Tensor]]:
        model: Any = self.model
        with WholeGraph(through_refinement=self._through_refinement):
            inputs = self.processor(images=list(images), input_data_format="channels_first", return_tensors="pt")
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
            outputs = model(**inputs)
            sizes = [_size_with_padding(image, inputs) for image in images]
            found: list[dict[str, Tensor]]
            found = self.processor.post_process_object_detection(outputs, threshold=LEAST_SCORE, target_sizes=sizes)
        return found


def is_detector(module: nn.Module) -> bool:
    """Whether a module is a detector that the adapter takes; subclasses are."""
    return any(
        cls.__name__ in PROCESSORS and cls.__module__.startswith("transformers.") for cls in type(module).__mro__
    )


def adapter_of(model: nn.Module, module: nn.Module) -> TransformersAdapter:
    """Return the adapter of such a detector, with the image processor that the module which trains it holds.

    Args:
        model: the detector.
        module: what it is inside of, or the detector itself.

    Raises:
        UserInputError: the module holds several image processors.
    """
    held = {id(value): value for value in vars(module).values() if isinstance(value, transformers.BaseImageProcessor)}
    if len(held) > 1:
        raise UserInputError(
            f"Expected {type(module).__name__} to hold one image processor, but found {len(held)}. Say which one "
            "belongs to the detector: `adapter=lambda module: TransformersAdapter(module.model, module.processor)`."
        )
    return TransformersAdapter(model, next(iter(held.values()), None))


def _default_processor(model: nn.Module) -> Any:
    name = next((PROCESSORS[cls.__name__] for cls in type(model).__mro__ if cls.__name__ in PROCESSORS), None)
    if name is None:
        raise UserInputError(
            f"Expected the image processor that {type(model).__name__} is trained with, but got none: "
            "`TransformersAdapter(model, processor)`."
        )
    processor = getattr(transformers, name)()
    settings = ", ".join(f"{key}={getattr(processor, key)}" for key in ("size", "do_normalize"))
    warnings.warn(
        f"{type(model).__name__} is audited with the default settings of {name} ({settings}), for want of the image "
        "processor that it is trained with. Keep that one as an attribute of the module (`self.processor = ...`), or "
        "pass `adapter=lambda module: TransformersAdapter(module.model, processor)`.",
        stacklevel=2,
    )
    return processor


def _labels_of(model: Any) -> list[int] | None:
    """Return the labels that stand for a class; None for all of them."""
    names = model.config.id2label
    kept = [label for label in sorted(names) if names[label] != "N/A"]
    return None if len(kept) == len(names) else kept


def _size_with_padding(image: Tensor, inputs: Any) -> tuple[float, float]:
    """Return the height and width that boxes from 0 to 1 are shares of, in pixels of the image.

    A processor with a ``pad_size`` pads below and to the right, and the boxes of its annotations are shares of the
    padded image, so those of the model are, too.
    """
    height, width = image.shape[1:]
    if "pixel_mask" not in inputs:
        return height, width
    mask = inputs["pixel_mask"][0]
    return height * mask.shape[0] / int(mask[:, 0].sum()), width * mask.shape[1] / int(mask[0].sum())
