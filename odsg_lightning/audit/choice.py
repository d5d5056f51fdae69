"""Which objects of an audit set are audited, if not all: so many of each image, balanced over the classes."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from odsg_lightning.records.maps_file import Key
from odsg_lightning.types import AuditSample

Listed = Mapping[int, Sequence[tuple[int, int]]]
"""Of each image, by its id: annotation id and class of each of its objects."""


def listed_objects(samples: Iterable[AuditSample]) -> Listed:
    """Return the objects of an audit set."""
    objects: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for sample in samples:
        objects[sample.image_id] += zip(sample.annotation_ids, sample.labels.tolist(), strict=True)
    return objects


def chosen_objects(objects: Listed, max_per_image: int | None) -> frozenset[Key]:
    """Choose the objects to audit, at most so many of an image: the same ones whenever the audit set is the same.

    Annotation ids follow the order of labelling, so the first few of each image would often be of one class. Here an
    image's next object is of the class that has the fewest chosen objects so far, in this image and those of lower id;
    of two such classes, of the one that is rarer in the set. Of one class, the lowest annotation id comes first.

    Args:
        objects: of the whole audit set, even if only a part of it is audited now.
        max_per_image: None for all.

    Returns:
        Their image ids and annotation ids.

    Example:
        >>> street = {1: [(10, 0), (11, 0), (12, 0), (13, 5)], 2: [(20, 0), (21, 0), (22, 0)]}
        >>> sorted(chosen_objects(street, max_per_image=2))
        [(1, 10), (1, 13), (2, 20), (2, 21)]
    """
    in_set = Counter(label for of_image in objects.values() for _, label in of_image)
    so_far: Counter[int] = Counter()
    chosen: set[Key] = set()
    for image_id in sorted(objects):
        left = sorted(objects[image_id])
        for _ in range(len(left) if max_per_image is None else min(max_per_image, len(left))):
            following = min(left, key=lambda item: (so_far[item[1]], in_set[item[1]], item[1], item[0]))
            left.remove(following)
            so_far[following[1]] += 1
            chosen.add((image_id, following[0]))
    return frozenset(chosen)


def audited_indices(sample: AuditSample, objects: frozenset[Key]) -> list[int]:
    """Return the positions of an image's objects that are among the chosen ones, by annotation id."""
    order = sorted(range(len(sample.annotation_ids)), key=sample.annotation_ids.__getitem__)
    return [index for index in order if (sample.image_id, sample.annotation_ids[index]) in objects]
