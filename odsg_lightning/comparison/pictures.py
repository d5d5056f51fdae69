"""Pictures of one object for the gallery: the photograph, and what each method says of its score and its x_min."""

import base64
from collections.abc import Mapping, Sequence

from torch import Tensor

from odsg_lightning.comparison.result import Pictures
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.masks import defined_maps
from odsg_lightning.types import AuditSample, Detections
from odsg_lightning.viz.packing import as_webp
from odsg_lightning.viz.panels import Pixels, map_panel, photograph_panel
from odsg_lightning.viz.window import extent_of, window_around

SHOWN = ("score", "x_min")
"""The parameters whose maps are drawn."""

_SIDE = 144  # pixels of a panel's height; a panel is about as wide on a page


def object_pictures(
    sample: AuditSample, objects: Sequence[int], detections: Detections, maps: Mapping[str, Tensor]
) -> Pictures:
    """Draw the largest object of an image.

    Args:
        sample: the image.
        objects: which of its objects are explained, length ``K``.
        detections: ``[K]`` what was detected of them.
        maps: ``[K, 5, H, W]`` of each method.
    """
    row = max(range(len(objects)), key=lambda one: int(sample.masks[objects[one]].sum()))
    index = objects[row]
    mask, box = sample.masks[index], sample.boxes[index]
    size = sample.image.shape[1], sample.image.shape[2]
    window = window_around(size, extent_of(box, mask), _SIDE, _SIDE)
    drawn: dict[str, dict[str, str]] = {}
    for name, of_method in maps.items():
        defined = defined_maps(of_method[row]).tolist()
        places = {parameter: PARAMETERS.index(parameter) for parameter in SHOWN}
        drawn[name] = {
            parameter: _webp(map_panel(sample.image, of_method[row, place], window, mask))
            for parameter, place in places.items()
            if defined[place]
        }
    category = sample.category_names[index] if sample.category_names else f"class {int(sample.labels[index])}"
    title = f"{category}, score {float(detections.scores[row]):.2f}, image {sample.image_id}"
    photograph = photograph_panel(sample.image, window, box, detections.boxes[row])
    return Pictures(sample.annotation_ids[index], title, _webp(photograph), drawn)


def _webp(picture: Pixels) -> str:
    return base64.b64encode(as_webp(picture)).decode("ascii")
