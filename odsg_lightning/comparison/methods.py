"""The rows of a comparison: explainers by name, with their settings, and the controls."""

from collections.abc import Sequence
from dataclasses import dataclass

from odsg_lightning.comparison.controls import CentreMap, RandomMap
from odsg_lightning.comparison.measures import CONTROLS, SMOOTHGRAD_OUTPUT
from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.base import Explainer
from odsg_lightning.explainers.by_name import make_explainer, settings_of
from odsg_lightning.names import EXPLAINERS, PARAMETERS


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        name: of the row.
        explainer: that makes its maps.
        of_detections: whether it explains what the detector returned; otherwise logit and unclipped box of the anchor
            or region behind it.
        source: the explainer's name, by which it was asked for.
        required: whether it was asked for by name, so that it is an error if it cannot explain the detector.
    """

    name: str
    explainer: Explainer
    of_detections: bool
    source: str
    required: bool = False


def make_methods(
    names: Sequence[str] | None = None,
    *,
    n_samples: int | None = None,
    n_masks: int | None = None,
    layer: str | None = None,
    box_maps: bool = False,
) -> list[Method]:
    """Return what is compared: explainers in the order of ``names.EXPLAINERS``, controls last.

    SmoothGrad is there twice, of logits and of what the detector returned. D-RISE explains a detection as a whole.

    Args:
        names: of the explainers; None for all that can explain the detector.
        n_samples: noisy copies of SmoothGrad; None for its default.
        n_masks: masked copies of D-RISE; None for its default.
        layer: of the explainers that look at one; None for their default. Naming it is naming them.
        box_maps: ask for the maps of the box wherever they can be made, and not only where they are by default.

    Raises:
        UserInputError: an unknown name, which lists the known ones, or a setting out of range.

    Example:
        >>> [method.name for method in make_methods(["odam", "smoothgrad"])]
        ['smoothgrad', 'smoothgrad (output)', 'odam', 'random', 'centre']
    """
    unknown = [name for name in names or () if name not in EXPLAINERS]
    if unknown:
        raise UserInputError(
            f"Expected explainers, any of {', '.join(EXPLAINERS)}, but got {', '.join(map(repr, unknown))}."
        )
    asked = {"n_samples": n_samples, "n_masks": n_masks, "layer": layer, "parameters": PARAMETERS if box_maps else None}
    methods = []
    for name in EXPLAINERS:
        if names is not None and name not in names:
            continue
        known = settings_of(name)
        settings = {key: value for key, value in asked.items() if value is not None and key in known}
        if name == "det_grad_cam":
            settings.pop("parameters", None)  # with these it is ODAM
        explainer = make_explainer(name, **settings)
        required = names is not None or "layer" in settings
        methods.append(Method(name, explainer, name == "d_rise", name, required))
        if name == "smoothgrad":
            methods.append(Method(SMOOTHGRAD_OUTPUT, explainer, True, name, required))
    random, centre = CONTROLS
    return [*methods, Method(random, RandomMap(), False, random), Method(centre, CentreMap(), False, centre)]
