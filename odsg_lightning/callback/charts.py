"""What TensorBoard alone gets: the page *Custom scalars*, recall by category, and histograms."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from odsg_lightning.metrics.drift import MEASURES
from odsg_lightning.names import BOX_PARAMETERS, OCCLUSION_NAMES, PARAMETERS, REGIONS
from odsg_lightning.records.means import iof_values
from odsg_lightning.records.record import ObjectRow
from odsg_lightning.text import plain

_CATEGORIES = 24
_DRIFT = {
    "drift": "drift from the audit before",
    "drift_ref": "drift from the reference",
    "drift_noise": "drift by noise alone",
}


def custom_scalars(*, occlusion: bool, drift: bool, categories: Sequence[str] = ()) -> dict[str, dict[str, list[Any]]]:
    """Return the page *Custom scalars*: rows of charts, each with its title and its one curve.

    One curve a chart, because TensorBoard draws all curves of a run in one colour.

    Args:
        occlusion: whether it is measured.
        drift: whether it is measured.
        categories: names of :func:`recall_by_category`.
    """
    recall = {"recall": "audit/recall"}
    rows: dict[str, dict[str, str]] = {}
    if occlusion:
        rows["occlusion"] = {name: f"occlusion/{name}" for name in OCCLUSION_NAMES} | recall
    rows["box maps: share on each third of the object"] = {region: f"iof/{region}" for region in REGIONS} | recall
    rows["box maps: on the object, and to which edge they lean"] = {
        "object": "iof/object",
        "near": "iof/near",
        "position: 0 own edge, 1 opposite": "position/mean",
        "enrichment of the own edge": "enrichment/edge",
    }
    for parameter in BOX_PARAMETERS:
        rows[parameter] = {name: f"iof/{parameter}/{name}" for name in (*REGIONS, "near")}
    rows["score"] = {name: f"iof/score/{name}" for name in ("object", "near")}
    if drift:
        for kind, words in _DRIFT.items():
            rows[words] = {measure: f"{kind}/{measure}" for measure in MEASURES}
    rows["audit"] = {name: f"audit/{name}" for name in ("match_rate", "defined")}
    rows["recall by category"] = {name: recall_tag(name) for name in categories}
    # TensorBoard takes a curve's name for a regular expression that names begin with.
    return {
        title: {name: ["Multiline", [f"^{re.escape(tag)}$"]] for name, tag in charts.items()}
        for title, charts in rows.items()
        if charts
    }


def recall_by_category(rows: Sequence[ObjectRow]) -> dict[str, float]:
    """Return which share of each category's objects was detected, by its name; of the 24 with the most objects."""
    detected: dict[str, list[bool]] = {}
    for row in rows:
        detected.setdefault(plain(row.category), []).append(not row.missed)
    most = sorted(detected, key=lambda name: (-len(detected[name]), name))[:_CATEGORIES]
    return {name: sum(detected[name]) / len(detected[name]) for name in sorted(most)}


def recall_tag(category: str) -> str:
    """Return the name of a category's curve."""
    return f"audit/recall/{category}"


def histograms(rows: Sequence[ObjectRow]) -> dict[str, np.ndarray]:
    """Return the objects' values by tag.

    ``iof_objects/...``: their shares on the object and near it, mean over the box maps, and on the object of each
    parameter; ``scores_hidden/...``: the score with which each is detected again, 0 where it is not, by what was hidden
    and what by.

    A tag without a defined value is left out: there is no histogram of nothing.
    """
    values = iof_values(rows)
    means = {"object": [row.box_mean("object") for row in rows], "near": [row.box_mean("near") for row in rows]}
    tagged = {f"iof_objects/{region}": np.array(of_objects, dtype=np.float64) for region, of_objects in means.items()}
    tagged |= {f"iof_objects/{parameter}": values[f"{parameter}/object"] for parameter in PARAMETERS}
    scores = [{name: again["score"] for name, again in row.detected_again.items() if again} for row in rows]
    for name in sorted({name for of_object in scores for name in of_object}):
        tagged[f"scores_hidden/{name}"] = np.array([of_object[name] for of_object in scores if name in of_object])
    defined = {tag: of_objects[~np.isnan(of_objects)] for tag, of_objects in tagged.items()}
    return {tag: of_objects for tag, of_objects in defined.items() if len(of_objects)}
