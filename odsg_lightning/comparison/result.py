"""What a comparison found, as plain values, and ``comparison.json``. Nothing here loads torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = "odsg_lightning.comparison/1"

Values = Mapping[str, float | None]
"""Of one object's maps, by :attr:`odsg_lightning.comparison.measures.Measure.key`; None where it is undefined."""


@dataclass(frozen=True)
class ComparedObject:
    """One detected object of the audit set.

    Attributes:
        image_id: COCO image id.
        annotation_id: COCO annotation id.
        category: name of its category.
        score: of the detection that is explained, 0 to 1.
        iou: of that with the annotated box.
        values: of each explainer's maps.
        undefined: how many of the maps that each explainer gives are undefined.
    """

    image_id: int
    annotation_id: int
    category: str
    score: float
    iou: float
    values: Mapping[str, Values]
    undefined: Mapping[str, int]


@dataclass(frozen=True)
class Pictures:
    """One object in every explainer's maps, each WebP in base64.

    Attributes:
        annotation_id: which object.
        title: it in words.
        photograph: with the annotated and the detected box.
        maps: by explainer and then by parameter, ``"score"`` and perhaps ``"x_min"``; without those undefined.
    """

    annotation_id: int
    title: str
    photograph: str
    maps: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class ImageResult:
    """One image of the audit set.

    Attributes:
        image_id: COCO image id.
        objects: those that are detected.
        missed: annotation ids of the others.
        left_out: why an explainer gave nothing, by its name.
        seconds: of :meth:`~odsg_lightning.explainers.base.Explainer.explain` for the whole image, by explainer.
        pictures: of one of its objects; None for most images.
    """

    image_id: int
    objects: tuple[ComparedObject, ...]
    missed: tuple[int, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    pictures: Pictures | None = None


@dataclass(frozen=True)
class CheckpointResult:
    """All images, explained with one checkpoint.

    Attributes:
        name: of its file.
        sha256: of its file.
        images: in the order of the audit set.
        explainers: those that were asked, in the order of the tables, and their settings in words.
        gives: which of the five maps each gives.
    """

    name: str
    sha256: str
    images: tuple[ImageResult, ...]
    explainers: Mapping[str, str]
    gives: Mapping[str, tuple[str, ...]]

    @property
    def objects(self) -> list[ComparedObject]:
        """Of all images."""
        return [one for image in self.images for one in image.objects]

    @property
    def n_missed(self) -> int:
        """Objects without a detection, which nobody can explain."""
        return sum(len(image.missed) for image in self.images)

    @property
    def left_out(self) -> dict[str, str]:
        """Why an explainer is in no table: it failed on an image at least."""
        return {name: why for image in self.images for name, why in image.left_out.items()}

    @property
    def shown(self) -> list[str]:
        """The explainers that are in the tables."""
        return [name for name in self.explainers if name not in self.left_out]

    @property
    def seconds_per_object(self) -> dict[str, float | None]:
        """Mean over the objects of all images; None without any."""
        count = len(self.objects)
        return {
            name: sum(image.seconds.get(name, 0.0) for image in self.images) / count if count else None
            for name in self.shown
        }


@dataclass(frozen=True)
class Comparison:
    """Everything that ``odsg compare`` found.

    Attributes:
        audit_set: its hash.
        settings: what the values depend on besides explainers and checkpoints.
        clock: what the seconds are: ``"processor"`` or ``"wall"``.
        checkpoints: in the order they were named.
    """

    audit_set: str
    settings: Mapping[str, Any]
    clock: str
    checkpoints: tuple[CheckpointResult, ...]


def comparison_json(comparison: Comparison) -> str:
    """Return the content of ``comparison.json``; the same call gives the same but for ``seconds``, its last entry."""
    content = {
        "schema": SCHEMA,
        "audit_set": comparison.audit_set,
        "settings": dict(comparison.settings),
        "checkpoints": [
            {
                "name": one.name,
                "sha256": one.sha256,
                "explainers": dict(one.explainers),
                "gives": {name: list(parameters) for name, parameters in one.gives.items()},
                "left_out": one.left_out,
                "missed": [[image.image_id, of_object] for image in one.images for of_object in image.missed],
                "objects": [asdict(of_object) for of_object in one.objects],
            }
            for one in comparison.checkpoints
        ],
        "seconds": {
            "clock": comparison.clock,
            "per_object": [one.seconds_per_object for one in comparison.checkpoints],
        },
    }
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
