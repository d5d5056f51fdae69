"""A COCO file as a map-style dataset: one dict per image, at the size that the network sees."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from odsg_lightning.data.coco import CocoDataset
from odsg_lightning.data.coco_masks import Segmentation, segmentation_mask
from odsg_lightning.data.images import load_image


class EvaluationTarget(TypedDict):
    """Ground truth as ``torchmetrics.detection.MeanAveragePrecision`` takes it, crowd regions included.

    ``boxes`` ``[G, 4]`` float32 XYXY in pixels of the *original* image; ``labels`` and ``iscrowd`` ``[G]`` int64.
    """

    boxes: Tensor
    labels: Tensor
    iscrowd: Tensor


class DetectionExample(TypedDict):
    """One image of a batch.

    ``image`` ``[3, H, W]`` uint8 RGB at network size; ``boxes`` ``[G, 4]`` float32 XYXY in pixels of ``image`` and
    ``labels`` ``[G]`` int64, without crowd regions; ``height`` and ``width`` of the original image in pixels;
    ``target`` in evaluation only; ``masks`` ``[G, H, W]`` bool where they were asked for.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    image_id: int
    file_name: str
    height: int
    width: int
    target: NotRequired[EvaluationTarget]
    masks: NotRequired[Tensor]


class DetectionDataset(Dataset[DetectionExample]):
    """Loads, resizes and flips the images of a COCO file.

    Args:
        coco: a checked COCO file.
        min_sizes: lengths of the shorter edge; one is drawn per image if there are several.
        max_size: upper limit of the longer edge.
        flip: probability of a horizontal flip.
        training: leave out images without an object to train on; otherwise keep all and add ``target``.
        masks: add ``masks``; an object without a usable segmentation has its filled box.
    """

    def __init__(
        self,
        coco: CocoDataset,
        *,
        min_sizes: Sequence[int],
        max_size: int,
        flip: float = 0.0,
        training: bool,
        masks: bool = False,
    ) -> None:
        """Pack the annotations into arrays."""
        self.min_sizes, self.max_size, self.flip, self.training = tuple(min_sizes), max_size, flip, training
        self.folder = coco.images_dir
        images = [image for image in coco.images if not training or not all(a.iscrowd for a in image.annotations)]
        # Arrays, because counting references to millions of small objects makes every worker copy their memory.
        self._ids = np.array([image.id for image in images], dtype=np.int64)
        self._names = np.array([image.file_name for image in images], dtype=np.str_)
        self._sizes = np.array([(image.height, image.width) for image in images], dtype=np.int64).reshape(-1, 2)
        self._ends = np.cumsum([0, *(len(image.annotations) for image in images)])
        objects = [annotation for image in images for annotation in image.annotations]
        self._boxes = np.array([a.box for a in objects], dtype=np.float32).reshape(-1, 4)
        self._labels = np.array([a.label for a in objects], dtype=np.int64)
        self._crowd = np.array([a.iscrowd for a in objects], dtype=np.bool_)
        self._segmentations = _Packed(a.segmentation for a in objects) if masks else None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._ids)

    def __getitem__(self, index: int) -> DetectionExample:
        """Load one image; sizes and flips are drawn from torch's global random stream."""
        objects = slice(self._ends[index], self._ends[index + 1])
        all_boxes, all_labels = torch.from_numpy(self._boxes[objects]), torch.from_numpy(self._labels[objects])
        crowd = torch.from_numpy(self._crowd[objects])
        height, width = (int(length) for length in self._sizes[index])
        name = str(self._names[index])
        min_size = self.min_sizes[int(torch.randint(len(self.min_sizes), ())) if len(self.min_sizes) > 1 else 0]
        size = shortest_edge_size(height, width, min_size, self.max_size)
        image = resize_image(load_image(self.folder / name, (height, width)), size)
        boxes = resize_boxes(all_boxes[~crowd], (height, width), size)
        flipped = self.flip > 0 and float(torch.rand(())) < self.flip
        if flipped:
            image, boxes = transforms.horizontal_flip(image), flip_boxes(boxes, size[1])
        example = DetectionExample(
            image=image,
            boxes=boxes,
            labels=all_labels[~crowd],
            image_id=int(self._ids[index]),
            file_name=name,
            height=height,
            width=width,
        )
        if self._segmentations is not None:
            masks = torch.zeros(int((~crowd).sum()), *size, dtype=torch.bool)
            original = height, width
            for mask, number in zip(masks, (~crowd).nonzero().flatten().tolist(), strict=True):
                found = self._segmentations[objects.start + number]
                mask[:] = resized_mask(found, original, size) if found else box_mask(all_boxes[number], original, size)
            example["masks"] = masks.flip(2) if flipped else masks
        if not self.training:
            # Clones: a transform of the batch in place must not reach the arrays.
            example["target"] = EvaluationTarget(
                boxes=all_boxes.clone(), labels=all_labels.clone(), iscrowd=crowd.long()
            )
        return example


class _Packed:
    """Values of a JSON file as one array: references to millions of small objects would be copied by every worker."""

    def __init__(self, values: Iterable[Any]) -> None:
        texts = [json.dumps(value).encode() for value in values]
        self._ends = np.cumsum([0, *map(len, texts)])
        self._bytes = np.frombuffer(b"".join(texts), dtype=np.uint8)

    def __getitem__(self, index: int) -> Any:
        return json.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())


def resized_mask(segmentation: Segmentation, original: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return ``[H, W]`` bool at ``size`` of a segmentation in an image of size ``original``, both (height, width)."""
    mask = torch.from_numpy(segmentation_mask(segmentation, *original).astype(np.uint8))
    # NEAREST_EXACT samples at pixel centres, as the boxes are scaled; NEAREST would shift the mask by half a pixel.
    resized: Tensor = transforms.resize(mask[None], list(size), interpolation=InterpolationMode.NEAREST_EXACT)
    return resized[0].bool()


def box_mask(box: Tensor, original: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return ``[H, W]`` bool at ``size``: the pixels whose centres lie in a box ``[4]`` of the original image."""
    x1, y1, x2, y2 = resize_boxes(box[None], original, size)[0]
    rows, columns = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1]) + 0.5
    inside: Tensor = (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2)
    return inside


def shortest_edge_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Return ``(height, width)`` with the shorter edge at ``min_size`` and the longer at most ``max_size``.

    Rounds to the nearest pixel, as Detectron2's ``ResizeShortestEdge`` does; at least one pixel each.
    """
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``[3, H, W]`` to ``size`` (height, width), bilinear with antialiasing."""
    resized: Tensor = transforms.resize(image, list(size), antialias=True)
    return resized


def resize_boxes(boxes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Scale XYXY boxes ``[G, 4]`` from an image of size ``old`` (height, width) to one of size ``new``."""
    (old_height, old_width), (height, width) = old, new
    scaled = boxes * boxes.new_tensor([width / old_width, height / old_height] * 2)
    return torch.minimum(scaled, scaled.new_tensor([width, height] * 2))  # rounding may overstep the border


def flip_boxes(boxes: Tensor, width: int) -> Tensor:
    """Mirror XYXY boxes ``[G, 4]`` left to right in an image of ``width`` pixels."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=1)
