"""Charts of TensorBoard's page *Custom scalars*, and histograms."""

from collections.abc import Sequence

import numpy as np

from odsg_lightning.metrics.drift import MEASURES
from odsg_lightning.names import BOX_PARAMETERS, OCCLUSION_NAMES, PARAMETERS, REGIONS
from odsg_lightning.records.means import iof_values
from odsg_lightning.records.record import ObjectRow


def custom_scalars(*, occlusion: bool, drift: bool) -> dict[str, dict[str, list[object]]]:
    """Return the charts of the page *Custom scalars*: title, and the curves in it."""
    layout: dict[str, dict[str, list[str]]] = {}
    if occlusion:
        layout["occlusion"] = {"sufficiency and necessity": [f"occlusion/{name}" for name in OCCLUSION_NAMES]}
    near = {"box mean": ["iof/near", "iof/object"]}
    layout["near and object"] = near | {p: [f"iof/{p}/near", f"iof/{p}/object"] for p in PARAMETERS}
    thirds = {"box mean": ["iof/edge", "iof/middle"]}
    layout["edge against middle"] = thirds | {p: [f"iof/{p}/edge", f"iof/{p}/middle"] for p in BOX_PARAMETERS}
    layout["leaning to the edge"] = {
        "enrichment": [f"enrichment/{region}" for region in REGIONS],
        "position": [f"position/{name}" for name in (*BOX_PARAMETERS, "mean")],
    }
    if drift:
        kinds = ("drift", "drift_ref", "drift_noise")
        layout["drift"] = {measure: [f"{kind}/{measure}" for kind in kinds] for measure in MEASURES}
    layout["recall"] = {"recall": ["audit/recall", "audit/match_rate", "audit/defined"]}
    # TensorBoard takes each for a regular expression that a name begins with.
    return {
        category: {title: ["Multiline", [f"^{tag}$" for tag in tags]] for title, tags in charts.items()}
        for category, charts in layout.items()
    }


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
