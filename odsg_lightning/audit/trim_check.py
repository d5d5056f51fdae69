"""What trimmed windows leave out of an audit's maps: some objects are explained with exact windows, too."""

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.explainer import explainer_of
from odsg_lightning.audit.measure import TrimCheck, measured
from odsg_lightning.records.maps_file import Key
from odsg_lightning.saliency.early_stop import correlation_distance
from odsg_lightning.saliency.gradients import engine_choice
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.types import AuditSample, Detections, ObjectSaliency

EVERY, SAMPLES = 8, 2
"""One object in so many is checked, on so many noise samples: about a twentieth of what the audit takes without."""
LEAST_CORRELATION, MOST_IOF, MOST_DROPPED = 0.99, 0.005, 0.1
"""Beyond these an audit warns."""


def trim_checks(
    detector: Detector,
    image: Tensor,
    sample: AuditSample,
    numbers: Detections,
    rows: Mapping[int, int],
    objects: Iterable[Key],
    config: AuditConfig,
) -> dict[int, TrimCheck]:
    """Explain some objects of an image trimmed and exactly, and warn if that differs by more than it should.

    Args:
        detector: that is explained.
        image: ``[3, H, W]``.
        sample: the image's.
        numbers: what the detector says of the clean image.
        rows: of each explained object of the image, where it is in there.
        objects: of the whole audit, by image id and annotation id: every eighth of them in ascending order is checked,
            whichever process audits it.
        config: of the audit.

    Returns:
        The check of each of the objects that is one of these; none where nothing is trimmed, since that was not asked
        for or another engine runs.
    """
    if not trims(config) or not engine_choice(detector, config.engine, config.precision, config.trim).trim:
        return {}
    chosen = {key[1] for key in sorted(objects)[::EVERY] if key[0] == sample.image_id}
    checks = {}
    for index, row in rows.items():
        if sample.annotation_ids[index] in chosen:
            maps = [_explained(detector, image, sample.image_id, numbers, row, config, t) for t in (config.trim, 0.0)]
            values = [measured(numbers.boxes[row], 1.0, 1.0, m, None, sample.masks[index], config).iof for m in maps]
            correlations = 1 - correlation_distance(maps[0].maps, maps[1].maps)
            check = TrimCheck(-_largest(-correlations), _largest((values[0] - values[1]).abs()))
            checks[index] = check
            if check.correlation < LEAST_CORRELATION or check.iof > MOST_IOF:
                _warn(
                    f"With trim={config.trim} annotation {sample.annotation_ids[index]} of image id {sample.image_id} "
                    f"has maps that correlate {check.correlation:.4f} with exact ones, where at least "
                    f"{LEAST_CORRELATION} is expected, and IOF that differs by {check.iof:.4f}, where at most "
                    f"{MOST_IOF} is."
                )
    return checks


def trims(config: AuditConfig) -> bool:
    """Whether trimmed maps are asked for: of an explainer by gradients."""
    return bool(config.measured.get("trim"))


def warn_of_dropped(maps: Iterable[ObjectSaliency], config: AuditConfig) -> None:
    """Warn if trimmed windows have left much out of an object's gradients; Python shows the same warning once."""
    if any(of_object.dropped > MOST_DROPPED for of_object in maps):
        _warn(f"With trim={config.trim} more than {MOST_DROPPED:.0%} of some objects' gradients is left out.")


def _explained(
    detector: Detector, image: Tensor, image_id: int, numbers: Detections, row: int, config: AuditConfig, trim: float
) -> ObjectSaliency:
    few = replace(config, n_samples=min(SAMPLES, config.n_samples), tolerance=None, trim=trim)
    (saliency,) = explainer_of(few).explain(
        detector,
        image,
        numbers,
        [row],
        generator=image_generator(config.seed, image_id),
        match_iou=config.match_iou if config.target == "output" else None,
    )
    return saliency


def _largest(values: Tensor) -> float:
    return max((number for number in values.tolist() if not math.isnan(number)), default=math.nan)


def _warn(text: str) -> None:
    warnings.warn(f"{text} Audit with a smaller trim, or with trim=0.", RuntimeWarning, stacklevel=3)
