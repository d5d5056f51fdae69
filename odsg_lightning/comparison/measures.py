"""What a comparison measures of each object's maps, by name and in groups. Nothing here loads torch."""

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "neither"]

SMOOTHGRAD_OUTPUT = "smoothgrad (output)"
"""SmoothGrad of what the detector returned, the second method of the paper; ``smoothgrad`` explains logits."""

CONTROLS = ("random", "centre")
"""Maps that know nothing of the detector's weights; ``centre`` knows the detected box."""


@dataclass(frozen=True)
class Measure:
    """One column of the tables.

    Attributes:
        key: name in ``comparison.json``.
        title: of the column.
        meaning: in a few words.
        better: which values are good.
    """

    key: str
    title: str
    meaning: str
    better: Better = "higher"

    @property
    def of_box(self) -> bool:
        """Whether it is a mean over the four maps of the box; the others are of the score's map."""
        return self.key.startswith("box/")

    @property
    def heading(self) -> str:
        """Title, with an arrow that points to the good values."""
        return self.title + {"higher": " ↑", "lower": " ↓", "neither": ""}[self.better]


GROUPS: dict[str, tuple[Measure, ...]] = {
    "Where the score's map lies": (
        Measure("iof", "IOF", "share of the foreground on the object"),
        Measure("energy_mask", "energy, mask", "share of the map's sum on the object's mask"),
        Measure("energy_box", "energy, box", "share of the map's sum in the object's box"),
        Measure("pointing_mask", "pointing, mask", "is the maximum on the object's mask?"),
        Measure("pointing_box", "pointing, box", "is the maximum in the object's box?"),
        Measure("ties", "ties", "other pixels with the maximum's value", "neither"),
    ),
    "How it spreads, and what hiding pixels says": (
        Measure("odi", "ODI", "share of the sum on the boxes of all objects that lies on the others'", "lower"),
        Measure("compactness", "compactness", "distance of the sum from the maximum", "lower"),
        Measure("accuracy", "VEA", "overlap of the map above nine thresholds with the mask"),
        Measure("deletion", "deletion", "what is still detected while its highest pixels go", "lower"),
        Measure("insertion", "insertion", "what is detected while its highest pixels come", "higher"),
    ),
    "Maps of the box": (
        Measure("box/edge", "IOF edge", "share of the foreground on the parameter's own third"),
        Measure("box/middle", "IOF middle", "on the middle third", "neither"),
        Measure("box/object", "IOF object", "on the object"),
        Measure("box/near", "IOF near", "share of the core near the object"),
        Measure("box/enrichment", "enrichment", "of the own third, in multiples of a uniform map"),
        Measure("box/position", "position", "of the map's sum: 0 at its own edge, 1 across", "lower"),
    ),
}
"""The measures; docs/measures.md defines them."""

MEASURES = tuple(measure for group in GROUPS.values() for measure in group)

HIDING = ("deletion", "insertion")
"""Those for which the detector runs on changed pictures."""
