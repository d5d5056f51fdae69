"""Annotations from which nothing can be learned: labels and boxes permuted."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def permuted(coco: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a COCO file's content with the labels and the boxes of its annotations permuted, one without the other.

    Every image keeps its number of objects, every class its number of examples, and the boxes their distribution over
    the image; what none of them has any longer is something to do with the pixels. Labels alone would leave box maps as
    they were: a detector still learns where objects are (Adebayo et al., 2018, permute the labels of classifiers).

    Args:
        coco: parsed, with ``images`` and ``annotations``. It is left as it is.
        seed: of the permutations.

    Returns:
        The content to write. A box that comes from an image of another size is scaled with it. Segmentations, which
        would say where the objects are, are left out.

    Example:
        >>> images = [{"id": 1, "width": 10, "height": 10}, {"id": 2, "width": 20, "height": 10}]
        >>> boxes = [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]}]
        >>> boxes += [{"image_id": 2, "category_id": 8, "bbox": [10, 2, 4, 2]}]
        >>> permuted({"images": images, "annotations": boxes}, seed=2)["annotations"][0]
        {'image_id': 1, 'category_id': 7, 'bbox': [5.0, 2.0, 2.0, 2.0], 'area': 4.0}
    """
    generator = np.random.default_rng(seed)
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    annotations = coco["annotations"]
    labels, places = (generator.permutation(len(annotations)) for _ in range(2))
    changed = []
    for annotation, label, place in zip(annotations, labels, places, strict=True):
        of_box = annotations[place]
        size, before = sizes[annotation["image_id"]], sizes[of_box["image_id"]]
        box = [number * (size[index % 2] / before[index % 2]) for index, number in enumerate(of_box["bbox"])]
        one = {name: value for name, value in annotation.items() if name != "segmentation"}
        one |= {"category_id": annotations[label]["category_id"], "bbox": box, "area": box[2] * box[3]}
        changed.append(one)
    return {**coco, "annotations": changed}
