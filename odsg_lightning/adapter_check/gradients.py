"""Whether each of the five numbers depends on the image by a graph, and whether its gradient is right."""

from dataclasses import dataclass

import torch
from torch import Tensor

from odsg_lightning.adapter_check.look import Look, best_of
from odsg_lightning.adapter_check.result import Verdict
from odsg_lightning.adapter_check.subject import Adapter, Subject, in_double, opened
from odsg_lightning.names import BOX_PARAMETERS, PARAMETERS
from odsg_lightning.types import Detections

_OBJECTS = 3
"""How many detections are differentiated."""

_NO_GRAPH = (
    "runs under torch.no_grad or torch.inference_mode (a `predict`, a post-processing), detaches (`.detach()`, "
    "`.data`, `.item()`) or goes through NumPy. Without a graph there are no maps. Remove it: audits need none."
)


def check_graph(look: Look) -> Verdict:
    """Differentiate the five numbers of the best detections."""
    if len(look.found) == 0:
        return "undecided", "Nothing was detected whose numbers could be differentiated."
    image = look.image.clone().requires_grad_()
    (found,) = look.subject.detect(image, graph=True)
    best = best_of(found, _OBJECTS)
    without = [part for part in ("boxes", "scores") if not getattr(best, part).requires_grad]
    if len(without) == 2:
        return "failure", f"Neither boxes nor scores have a graph: something in `detect` {_NO_GRAPH}"
    if without:
        other = "scores" if without == ["boxes"] else "boxes"
        return "failure", f"The {without[0]} have no graph, the {other} have one: something in `detect` {_NO_GRAPH}"
    gradients = [[_gradient(best, index, p, image) for p in range(len(PARAMETERS))] for index in range(len(best))]
    cut = [p for position, p in enumerate(PARAMETERS) if any(row[position] is None for row in gradients)]
    if cut:
        return "failure", (
            f"The graph of {', '.join(cut)} ends before it reaches the image: a copy of the image outside the graph is "
            "what the model sees (torch.tensor(image), `image.data`, NumPy, Pillow, an image processor that returns "
            "new arrays). Prepare the image with torch operations on the tensor itself."
        )
    if not all(bool(g.isfinite().all()) for row in gradients for g in row if g is not None):
        return "failure", "A gradient is NaN or infinite. Look for sqrt(0), log(0) or 0/0 on the way."
    flat = _flat(best, gradients, look.size)
    if flat and all(p in BOX_PARAMETERS for p in flat) and bool((best.boxes == best.boxes.round()).all()):
        return "failure", f"The gradient of {', '.join(flat)} is zero, and all boxes are whole numbers: do not round."
    if flat:
        return "warning", (
            f"The gradient of {', '.join(flat)} is zero at every pixel, for each of the {len(best)} best detections. "
            "That is so of an untrained DETR-like (its heads begin at zero), of a saturated score (exactly 0 or 1) and "
            "behind a clamp. On a trained model something on the way is constant: rounding, a threshold, an argmax."
        )
    return "ok", f"Each of the five numbers of the {len(best)} best detections has a gradient."


def _gradient(best: Detections, index: int, parameter: int, image: Tensor) -> Tensor | None:
    return torch.autograd.grad(best.number(index, parameter), image, retain_graph=True, allow_unused=True)[0]


def _flat(best: Detections, gradients: list[list[Tensor | None]], size: tuple[int, int]) -> list[str]:
    """Return the numbers whose gradient is zero for all detections that are not clipped there."""
    flat = []
    for position, name in enumerate(PARAMETERS):
        rows = [row[position] for i, row in enumerate(gradients) if not _clipped(best, i, position, size)]
        if rows and not any(bool(row.any()) for row in rows if row is not None):
            flat.append(name)
    return flat


def _clipped(best: Detections, index: int, parameter: int, size: tuple[int, int]) -> bool:
    """Whether a coordinate lies on the border of the image, where clipping takes its gradient."""
    if PARAMETERS[parameter] not in BOX_PARAMETERS:
        return False
    value = float(best.boxes[index, parameter].detach())
    return value <= 0 or value >= size[parameter % 2]


# Finite differences ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slope:
    """How fast one number rises along its own gradient: as the gradient says, and as the detector does."""

    name: str
    gradient: float
    measured: float
    exact: bool

    @property
    def ratio(self) -> float:
        return self.measured / self.gradient


def check_slopes(look: Look, module: object, adapter: Adapter) -> Verdict:
    """Move the image along each number's gradient, both ways, and see whether the number moves as far.

    In float64 on a copy where the model can be copied, with central differences of 0.001 grey levels; otherwise in the
    model's own precision, with the best of several steps.

    Args:
        look: at the image.
        module: of which the adapter makes the detector.
        adapter: does so.
    """
    if len(look.found) == 0:
        return "undecided", "Nothing was detected whose numbers could be differentiated."
    slopes = _slopes_in_double(look, module, adapter) or _slopes(look.subject, look.image, (0.1, 0.3, 1.0, 3.0))
    if not slopes:
        return "undecided", "No number of the best detection has a gradient large enough to compare."
    worst = max(slopes, key=lambda slope: abs(slope.ratio - 1))
    precision = "float64" if worst.exact else "the precision of the model"
    if abs(worst.ratio - 1) <= (0.01 if worst.exact else 0.1):
        return "ok", f"The gradients of {', '.join(s.name for s in slopes)} are what the numbers do, in {precision}."
    said = (
        f"Along its gradient {worst.name} should rise by {worst.gradient:.3g} per grey level, but it rises by "
        f"{worst.measured:.3g} ({precision})"
    )
    part = 0.2 <= worst.ratio <= 5
    why = (
        "a part of the model is outside the graph, and maps show the rest only: detached reference points between "
        "decoder layers (as in RT-DETR), proposals, a part under no_grad"
        if part
        else "the gradient is not that of this number: a straight-through estimator, a custom backward, a detached part"
    )
    return ("warning" if part else "failure"), f"{said}: {why}."


def _slopes_in_double(look: Look, module: object, adapter: Adapter) -> list[_Slope]:
    copied = in_double(module)
    if copied is None:
        return []
    try:
        with opened(copied, adapter) as subject:
            return _slopes(subject, look.image.double(), (1e-3,))
    except Exception:  # an operator without float64, a model that casts: then in its own precision
        return []


def _slopes(subject: Subject, image: Tensor, steps: tuple[float, ...]) -> list[_Slope]:
    """Return the slopes of the best detection's numbers; of those that rounding would hide, none."""
    leaf = image.clone().requires_grad_()
    best = best_of(subject.detect(leaf, graph=True)[0], 1)
    exact = best.boxes.dtype == best.scores.dtype == torch.float64
    if image.dtype == torch.float64 and not exact:
        return []
    noise = 100 * torch.finfo(best.boxes.dtype).eps
    found = []
    size = image.shape[2], image.shape[1]
    for position, name in enumerate(PARAMETERS):
        gradient = _gradient(best, 0, position, leaf)
        if gradient is None or not bool(gradient.any()) or _clipped(best, 0, position, size):
            continue
        length = float(gradient.norm())
        slopes = []
        for step in steps:
            there, back = (_moved(subject, image, gradient / length * side * step, best) for side in (1, -1))
            if there is None or back is None or length * step < noise * float(best.number(0, position).detach().abs()):
                continue
            change = float(there.number(0, position) - back.number(0, position))
            slopes.append(_Slope(name, length, change / (2 * step), exact))
        if slopes:
            found.append(min(slopes, key=lambda slope: abs(slope.ratio - 1)))
    return found


def _moved(subject: Subject, image: Tensor, by: Tensor, reference: Detections) -> Detections | None:
    """Return the one detection again in an image that is a little different."""
    (found,) = subject.detect(image + by)
    same = found[found.labels == reference.labels]
    if len(same) == 0:
        return None
    nearest = (same.parameters - reference.parameters.detach()).abs().amax(1).argmin()
    return same[int(nearest)]
