"""The names of what is explained and measured. Nothing is imported here, so that reading a record stays light."""

PARAMETERS = ("x_min", "y_min", "x_max", "y_max", "score")
"""The five numbers that a detector returns for an object, in the order of every axis of length 5."""

BOX_PARAMETERS = PARAMETERS[:4]

EXPLAINERS = (
    *("smoothgrad", "gradient", "odam", "det_grad_cam", "grad_cam", "guided_grad_cam", "layer_cam"),
    *("ss_grad_cam", "ss_grad_cam_pp", "d_rise", "lrp", "contrastive_lrp"),
)
"""The ways to make maps, by the names of :mod:`odsg_lightning.explainers.by_name`."""

REGIONS = ("edge", "middle", "opposite")
"""The thirds of an object as a box parameter sees them: its own edge, the middle, the opposite edge."""

IOF_NAMES = (
    *(f"{parameter}/{region}" for parameter in BOX_PARAMETERS for region in (*REGIONS, "object")),
    "score/object",
    *(f"{parameter}/near" for parameter in PARAMETERS),
)
"""The 22 IOF values of each object: edge, middle, opposite and object for each box parameter, object for the score; and
near, the grown object, for all five."""

SUMMARY_NAMES = ("object", "near", *REGIONS)
"""Means over the four box parameters."""

MAP_NAMES = ("area_ratio", "relevance_mass", "pointing_game")
"""What else is measured of each object's box maps: size of the foreground against the object's, share of the map's mass
on the object, share of the maps whose maximum lies on it."""

EDGE_NAMES = (
    *(f"enrichment/{parameter}/{region}" for parameter in BOX_PARAMETERS for region in REGIONS),
    *(f"position/{parameter}" for parameter in BOX_PARAMETERS),
)
"""The 16 values that say which edge of an object each box map leans to: :mod:`odsg_lightning.metrics.edges`."""

FAMILIES = ("iof/", "maps/", "enrichment/", "position/", "occlusion/", "audit/", "drift")
"""How the names of all logged values begin."""

OCCLUSION_NAMES = ("sufficiency", "necessity")
"""How much of an object's score is left when all but the object is hidden, and how much is gone when the object is."""

OF_DETECTOR = "detector/"
"""How the entries of a fingerprint begin that say in which of its ways a detector was explained."""
