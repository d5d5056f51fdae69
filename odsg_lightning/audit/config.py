"""The settings of an audit: everything that its numbers depend on besides the detector and the images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from odsg_lightning.errors import UserInputError
from odsg_lightning.names import EXPLAINERS
from odsg_lightning.saliency.options import Engine, Precision, check_engine, check_tolerance

Target = Literal["output", "logit", "ground_truth"]

OF_GRADIENTS = ("smoothgrad", "gradient")
"""The explainers whose settings are arguments of an audit."""

_OF_GRADIENTS_ALONE = {"n_samples", "sigma", "tolerance", "precision", "trim"}

OCCLUSION = "blur + grey, inpaint"
"""What hidden pixels are replaced by, for sufficiency and for necessity, as a fingerprint says it."""


@dataclass(frozen=True)
class AuditConfig:
    """Settings of an audit.

    Attributes:
        explainer: how maps are made: ``"smoothgrad"``; ``"gradient"``, the plain gradient, one sample without noise; or
            another of :data:`odsg_lightning.names.EXPLAINERS` that gives maps of all five numbers.
        explainer_settings: of such another one, by name: :func:`odsg_lightning.explainers.by_name.settings_of`; None
            for its own defaults. ``n_samples``, ``sigma``, ``tolerance``, ``precision`` and ``trim`` are not for it.
        target: what is explained: ``"output"``, what was returned; ``"logit"``, the class logit and the unclipped box
            of the anchor or region that a detection came from; ``"ground_truth"``, these of the anchor or region that
            fits an object best, whether it is detected or not.
        n_samples: noise samples of SmoothGrad; with a ``tolerance``, the most that an object gets.
        sigma: standard deviation of the noise relative to the pixel range (0.05 is 12.75 grey levels).
        match_iou: least IoU of a detection in a noise sample with the one in the clean image.
        pair_iou: least IoU of a detection with its ground-truth object.
        score_threshold: a detection must score above this to be paired.
        blur_sigma: standard deviation of the blur before binarising a map, in pixels.
        threshold: share of a blurred map's maximum above which a pixel is foreground.
        near_threshold: the same for IOF ``near``.
        near_margin: by how much an object grows for ``near``, as a share of its size.
        occlusion: whether to hide pixels, too: :mod:`odsg_lightning.occlusion.evidence`.
        sufficiency_margin: how far around an object pixels stay when all others are hidden, as a share of its size; one
            pixel at least.
        necessity_margin: how far around an object's box pixels are hidden with it, likewise.
        seed: of the noise.
        max_objects_per_image: audit only so many objects of an image, chosen so that the classes of the audit set stay
            balanced (:func:`odsg_lightning.audit.choice.chosen_objects`); None for all.
        tolerance: None for all ``n_samples``, or when to stop before:
            :func:`odsg_lightning.saliency.smoothgrad.smoothgrad` says what it means.
        engine: how the gradients are computed: :func:`odsg_lightning.saliency.gradients.linearize`.
        precision: of the linear backward pass: see there.
        trim: share that the blocks of a network may leave out, likewise; some objects are then explained exactly, too:
            :mod:`odsg_lightning.audit.trim_check`.
    """

    explainer: str = "smoothgrad"
    explainer_settings: Mapping[str, Any] | None = None
    target: Target = "output"
    n_samples: int = 20
    sigma: float = 0.05
    match_iou: float = 0.7
    pair_iou: float = 0.5
    score_threshold: float = 0.5
    blur_sigma: float = 2.0
    threshold: float = 0.32
    near_threshold: float = 0.5
    near_margin: float = 0.2
    occlusion: bool = True
    sufficiency_margin: float = 0.025
    necessity_margin: float = 0.025
    seed: int = 0
    max_objects_per_image: int | None = None
    tolerance: float | None = None
    engine: Engine = "auto"
    precision: Precision = "full"
    trim: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UserInputError: names the argument, its range and the value that came.
        """
        for name, known in (("explainer", EXPLAINERS), ("target", get_args(Target))):
            if getattr(self, name) not in known:
                raise UserInputError(
                    f"Expected argument `{name}` to be one of {known}, but got {getattr(self, name)!r}."
                )
        if self.explainer_settings and self.explainer in OF_GRADIENTS:
            raise UserInputError(
                f"Expected the settings of {self.explainer!r} as arguments (`n_samples`, `sigma`), but got "
                f"`explainer_settings` {dict(self.explainer_settings)}."
            )
        whole = {"n_samples": (self.n_samples, 1), "seed": (self.seed, 0)}
        if self.max_objects_per_image is not None:
            whole["max_objects_per_image"] = (self.max_objects_per_image, 1)
        for name, (number, least) in whole.items():
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise UserInputError(
                    f"Expected argument `{name}` to be an integer of at least {least}, but got {number!r}."
                )
        for name in ("match_iou", "pair_iou", "score_threshold", "threshold", "near_threshold"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise UserInputError(f"Expected argument `{name}` to be in [0, 1), but got {share!r}.")
        for name in ("sigma", "blur_sigma", "near_margin", "sufficiency_margin", "necessity_margin"):
            size = getattr(self, name)
            if not 0 <= size < float("inf"):
                raise UserInputError(f"Expected argument `{name}` to be a finite number, 0 or more, but got {size!r}.")
        check_tolerance(self.tolerance)
        check_engine(self.engine, self.precision, self.trim)

    @property
    def measured(self) -> dict[str, Any]:
        """The settings that the numbers depend on, by name.

        Every engine computes the same maps, so ``engine`` is not among them. ``tolerance``, ``precision`` and ``trim``
        are only where they change something: audits from before they existed have the same settings as those without.
        """
        left_out = {"engine", "explainer_settings"}
        if self.explainer not in OF_GRADIENTS:
            left_out |= _OF_GRADIENTS_ALONE
        settings = {name: value for name, value in vars(self).items() if name not in left_out}
        settings |= {f"explainer/{name}": value for name, value in (self.explainer_settings or {}).items()}
        if self.occlusion:
            settings["occlusion"] = OCCLUSION
        else:
            del settings["sufficiency_margin"], settings["necessity_margin"]
        for name in ("tolerance", "precision", "trim"):
            if settings.get(name) == getattr(AuditConfig, name):
                settings.pop(name, None)
        return settings
