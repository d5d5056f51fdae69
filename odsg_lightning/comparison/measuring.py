"""What is measured of the maps of an image's objects."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from odsg_lightning.comparison.measures import HIDING
from odsg_lightning.metrics.deletion import deletion_area, insertion_area
from odsg_lightning.metrics.edges import enrichment, position
from odsg_lightning.metrics.explanation_accuracy import visual_explanation_accuracy
from odsg_lightning.metrics.iof import intersection_over_foreground
from odsg_lightning.metrics.pointing import energy_pointing_game, pointing_game
from odsg_lightning.metrics.spread import compactness, object_discrimination
from odsg_lightning.names import BOX_PARAMETERS, IOF_NAMES, PARAMETERS
from odsg_lightning.occlusion.deletion import CURVES, deletion_curves, insertion_curves
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.types import AuditSample, Detections

_DIGITS = 6
_SCORE = PARAMETERS.index("score")
_BOX = slice(len(BOX_PARAMETERS))
_SCORE_IOU = CURVES.index("score_iou")


def map_values(maps: Tensor, sample: AuditSample, objects: Sequence[int]) -> list[dict[str, float | None]]:
    """Measure maps where they lie: against the annotated masks and boxes.

    Args:
        maps: ``[K, 5, H, W]`` of some objects, NaN where undefined or not given.
        sample: their image.
        objects: which of its objects, length ``K``.

    Returns:
        For each object every value but those of hiding pixels, rounded to 6 digits; None where it is undefined.
    """
    if not objects:
        return []
    chosen = torch.tensor(list(objects))
    masks, boxes = sample.masks[chosen].to(maps.device), sample.boxes[chosen].to(maps)
    everything = sample.boxes.to(maps)
    iof = intersection_over_foreground(maps, masks)
    pointing = pointing_game(maps, masks, boxes)[:, _SCORE]
    energy = energy_pointing_game(maps, masks, boxes)[:, _SCORE]

    def box_mean(region: str) -> Tensor:
        return iof[:, [IOF_NAMES.index(f"{parameter}/{region}") for parameter in BOX_PARAMETERS]].nanmean(dim=1)

    columns = {
        "iof": iof[:, IOF_NAMES.index("score/object")],
        "energy_mask": energy[:, 0],
        "energy_box": energy[:, 1],
        "pointing_mask": pointing[:, 0],
        "pointing_box": pointing[:, 1],
        "ties": pointing[:, 2],
        "odi": object_discrimination(maps, everything, chosen)[:, _SCORE],
        "compactness": compactness(maps, boxes)[:, _SCORE],
        "accuracy": visual_explanation_accuracy(maps, masks)[:, _SCORE, -1],
        **{f"box/{region}": box_mean(region) for region in ("edge", "middle", "object", "near")},
        "box/enrichment": enrichment(maps, masks)[:, _BOX, 0].nanmean(dim=1),
        "box/position": position(maps, masks).nanmean(dim=1),
    }
    return [{key: plain(column[row]) for key, column in columns.items()} for row in range(len(objects))]


class Hiding:
    """Deletion and insertion of an image's objects, for one explainer after another; the same map is asked once.

    Args:
        detector: in eval mode.
        image: ``[3, H, W]``.
        detections: ``[K]`` the explained detections.
        steps: of equally many pixels.
    """

    def __init__(self, detector: Detector, image: Tensor, detections: Detections, steps: int) -> None:
        """See the class for the arguments."""
        self._detector, self._image, self._detections, self._steps = detector, image, detections, steps
        self._known: dict[tuple[int, bytes], dict[str, float | None]] = {}

    def values(self, maps: Tensor) -> list[dict[str, float | None]]:
        """Return the areas under the curves of score times IoU, for maps ``[K, H, W]``; None where undefined."""
        return [self._of_object(row, of_object) for row, of_object in enumerate(maps)]

    def _of_object(self, row: int, of_object: Tensor) -> dict[str, float | None]:
        key = row, of_object.cpu().numpy().tobytes()
        if key not in self._known:
            about = self._detector, self._image, self._detections[row], of_object[None]
            areas = (
                deletion_area(deletion_curves(*about, steps=self._steps)),
                insertion_area(insertion_curves(*about, steps=self._steps)),
            )
            self._known[key] = {name: plain(area[0, _SCORE_IOU]) for name, area in zip(HIDING, areas, strict=True)}
        return self._known[key]


def plain(value: Tensor | float) -> float | None:
    """Return a number rounded to 6 digits, None for NaN."""
    number = float(value)
    return None if math.isnan(number) else round(number, _DIGITS)
