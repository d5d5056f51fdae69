"""Have some images collapsed? A mean over all images hardly says so: five of twenty at zero only widen its interval."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.gate.config import COLLAPSED, GateConfig
from odsg_lightning.gate.resampling import MIN_IMAGES
from odsg_lightning.gate.result import CheckResult, Verdict
from odsg_lightning.gate.values import ComparedValues

_OF = "iof/near"
_LEAST_LEFT = 0.5  # of an image's mean


def collapse_result(values: ComparedValues, images: NDArray[np.intp], config: GateConfig) -> CheckResult:
    """Judge the share of images that have collapsed: the mean ``iof/near`` of their objects has more than halved.

    The check fails if the lower bound of the share's exact interval (Clopper and Pearson) lies above the margin. It
    passes if no more images have collapsed than the margin allows, a part of an image counted as a whole one: the upper
    bound would need 72 images without any collapse to lie below 0.05. With fewer than five images it never fails, and
    passes only if none has collapsed.

    Args:
        values: that both sides have.
        images: ``[n_objects]`` the image of each object, numbered from 0.
        config: margin, level and confidence.
    """
    objects = values.paired(_OF)
    counts = np.bincount(images[objects])
    compared = counts > 0
    n_images = int(compared.sum())
    level: Literal["error", "warn"] = "error" if config.checks[COLLAPSED].level == "error" else "warn"
    if not n_images:
        return CheckResult(COLLAPSED, level, "no data", None, None, None, None, None, 0, 0)
    before, after = (
        np.bincount(images[objects], side[_OF][objects])[compared] / counts[compared]
        for side in (values.before, values.after)
    )
    collapsed, margin = int((after < _LEAST_LEFT * before).sum()), config.checks[COLLAPSED].margin.amount
    lower, upper = exact_interval(collapsed, n_images, config.tail)
    few = n_images < MIN_IMAGES
    verdict: Verdict = "inconclusive"
    if collapsed <= (0 if few else math.ceil(margin * n_images - 1e-9)):
        verdict = "pass"
    elif lower > margin and not few:
        verdict = "fail"
    share = collapsed / n_images
    return CheckResult(COLLAPSED, level, verdict, 0.0, share, lower, upper, margin, len(objects), n_images)


def exact_interval(count: int, total: int, tail: float) -> tuple[float, float]:
    """Return the bounds of a share by Clopper and Pearson.

    Args:
        count: how many of ``total``.
        total: at least 1.
        tail: probability beyond each bound.

    Example:
        >>> [round(bound, 3) for bound in exact_interval(5, 20, 0.025)]
        [0.087, 0.491]
    """
    from scipy.special import betaincinv  # a third of a second, which only this needs

    lower = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
    upper = float(betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return lower, upper
