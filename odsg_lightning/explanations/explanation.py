"""What is shown of one explained detection."""

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from odsg_lightning.names import PARAMETERS
from odsg_lightning.types import _ComparedByValue
from odsg_lightning.viz.strip import object_strip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Explanation(_ComparedByValue):
    """The five maps of one detection; in a notebook it shows itself.

    Attributes:
        image: ``[3, H, W]`` RGB, float, 0 to 255, as the detector saw it: all pixels refer to it.
        box: ``[4]`` XYXY in pixels: what the detector returned, or, of another target, its unclipped box.
        score: class score, 0 to 1.
        label: class index that is explained.
        name: the class in words.
        maps: ``[5, H, W]`` in the order of :data:`~odsg_lightning.names.PARAMETERS`, in units of the parameter per grey
            level; NaN throughout where a map is undefined.
        target: ``"output"``, ``"logit"`` or ``"ground_truth"``.
        matched_samples: in how many of the explainer's changed copies the object was detected again.
        n_samples: number of these: noise samples of SmoothGrad, masked copies of D-RISE; 1 of an explainer without.
        region: ``[4]`` XYXY the anchor, or region of interest, whose numbers are explained; None for ``"output"``.
        against: class whose logit was subtracted; None for none.
        dropped: estimate of what trimmed windows left out: :attr:`odsg_lightning.types.ObjectSaliency.dropped`.
    """

    image: Tensor = field(repr=False)
    box: Tensor
    score: float
    label: int
    name: str
    maps: Tensor = field(repr=False)
    target: str
    matched_samples: int
    n_samples: int
    region: Tensor | None = None
    against: str | None = None
    dropped: float = 0.0

    @property
    def title(self) -> str:
        """What is explained, in a line."""
        asked = f"{self.name} rather than {self.against}" if self.against else self.name
        kind = {"output": "", "logit": ", logit", "ground_truth": ", logit of the annotated object"}[self.target]
        looks = f", {self.matched_samples}/{self.n_samples} samples" if self.n_samples > 1 else ""
        trimmed = f", trimmed by about {self.dropped:.1%}" if self.dropped else ""
        return f"{asked}: score {self.score:.3f}{kind}{looks}{trimmed}"

    def strip(self) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """Draw picture, box and the five maps side by side.

        Returns:
            ``[height, width, 3]`` uint8 RGB.
        """
        captions = [f"maximum {self.maps[number].max():.2g}" for number in range(len(PARAMETERS))]
        return object_strip(
            self.image,
            self.maps,
            None,
            ground_truth_box=None,
            detected_box=self.box,
            mask=None,
            title=self.title,
            captions=captions,
            hidden=None,
        )

    def plot(self, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
        """Draw :meth:`strip` with matplotlib.

        Args:
            ax: where to; None for a figure of its own.

        Returns:
            Figure and axes, as torchmetrics' ``plot`` does.
        """
        if ax is None:
            import matplotlib.pyplot as plt

            strip = self.strip()
            _, ax = plt.subplots(figsize=(strip.shape[1] / 100, strip.shape[0] / 100), layout="tight")
        else:
            strip = self.strip()
        ax.imshow(strip)
        ax.set_axis_off()
        figure: Any = ax.figure
        return figure, ax

    def arrays(self) -> dict[str, Any]:
        """Return everything as NumPy arrays by name, as ``odsg explain -o FILE.npz`` writes them."""
        return {
            "image": self.image.round().clamp(0, 255).to(torch.uint8).cpu().numpy(),
            "box": self.box.cpu().numpy(),
            "score": np.float64(self.score),
            "label": np.int64(self.label),
            "name": np.str_(self.name),
            "maps": self.maps.float().cpu().numpy(),
            "parameters": np.array(PARAMETERS),
            "target": np.str_(self.target),
        }

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(self.strip()).save(stream, format="PNG")
        return stream.getvalue()
