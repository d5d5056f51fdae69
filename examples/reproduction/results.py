"""What was measured, read back: arrays over all objects of a detector, its trainings together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import BLURS, NAMES, THRESHOLDS
from numpy.typing import NDArray

REGIONS = ("edge", "middle", "opposite", "object")


@dataclass(frozen=True)
class Results:
    """What was measured of one detector.

    Attributes:
        detector: its name.
        trainings: names of its trainings; one, of a checkpoint by path.
        training: ``[N]`` index of each object's.
        image: ``[N]`` its image id.
        objects: number of objects that were looked at, missed ones included, each training's counted.
        pictures: number of pictures, of each training.
        values: arrays ``[N, ...]`` of :func:`measuring.measured`.
    """

    detector: str
    trainings: tuple[str, ...]
    training: NDArray[np.int64]
    image: NDArray[np.int64]
    objects: int
    pictures: tuple[int, ...]
    values: dict[str, NDArray[Any]]

    def iof(self, kind: str, blur: str = "2 px", threshold: float = 0.32) -> NDArray[np.float64]:
        """Return IOF ``[N, 4, 4]`` of one kind of maps, by box parameter and :data:`REGIONS`."""
        place = NAMES.index(kind), BLURS.index(blur), THRESHOLDS.index(threshold)
        chosen: NDArray[np.float64] = self.values["iof"][:, *place].astype(np.float64)
        return chosen

    def of(self, name: str, kind: str) -> NDArray[np.float64]:
        """Return another measure of one kind of maps, ``[N, ...]``."""
        chosen: NDArray[np.float64] = self.values[name][:, NAMES.index(kind)].astype(np.float64)
        return chosen


def edge_less_middle(iof: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[N, 4]`` the difference that the paper's claim is about, of IOF or enrichment ``[N, 4, ...]``."""
    return iof[..., 0] - iof[..., 1]


def read_results(folder: Path, detector: str, trainings: Sequence[str]) -> Results:
    """Read what is there of a detector.

    Args:
        folder: with a folder of value files for each training.
        detector: a name for the tables.
        trainings: names of these folders.
    """
    rows: list[dict[str, Any]] = []
    training, image, pictures, objects = [], [], [], 0
    for index, name in enumerate(trainings):
        files = sorted((folder / name).glob("*.npz"))
        pictures.append(len(files))
        for path in files:
            with np.load(path) as file:
                values = dict(file)
            number, count = int(values.pop("image")), int(values.pop("objects"))
            objects += count
            if values:
                rows.append(values)
                detected = len(values["label"])
                training += [index] * detected
                image += [number] * detected
    arrays = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]} if rows else {}
    return Results(
        detector, tuple(trainings), np.array(training, np.int64), np.array(image, np.int64), objects, tuple(pictures),
        arrays,
    )  # fmt: skip
