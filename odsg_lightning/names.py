"""The names of what is explained and measured. Nothing is imported here, so that reading a record stays light."""

PARAMETERS = ("x_min", "y_min", "x_max", "y_max", "score")
"""The five numbers that a detector returns for an object, in the order of every axis of length 5."""

BOX_PARAMETERS = PARAMETERS[:4]

REGIONS = ("edge", "middle", "opposite")
"""The thirds of an object as a box parameter sees them: its own edge, the middle, the opposite edge."""

IOF_NAMES = (
    *(f"{parameter}/{region}" for parameter in BOX_PARAMETERS for region in (*REGIONS, "object")),
    "score/object",
)
"""The 17 values of each object: edge, middle, opposite and object for each box parameter, object for the score."""

SUMMARY_NAMES = ("object", *REGIONS)
"""Means over the four box parameters."""
