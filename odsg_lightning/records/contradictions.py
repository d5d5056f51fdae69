"""What a record says of an object, held against its own settings: rows that no audit writes are found here."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from odsg_lightning.names import BOX_PARAMETERS, OCCLUSION_NAMES, PARAMETERS, REGIONS
from odsg_lightning.records.match_rate import FEWEST_MATCHED, most_samples

if TYPE_CHECKING:
    from odsg_lightning.records.record import ObjectRow

_ROUNDING = 3e-6  # values have six digits, and up to three of them are added


class ContradictionError(ValueError):
    """Content of a record of the right shape that cannot be true."""


def refuse_contradictions(fingerprint: Mapping[str, Any], rows: Iterable["ObjectRow"]) -> None:
    """Refuse rows that an audit with these settings cannot have written.

    Args:
        fingerprint: of the record.
        rows: all of its objects.

    Raises:
        ContradictionError: names the first object, and what cannot be true of it.
    """
    rows = list(rows)
    for key, count in Counter(row.key for row in rows).items():
        if count > 1:
            raise ContradictionError(f"annotation {key[1]} of image {key[0]} comes twice")
    most = fingerprint["max_objects_per_image"]
    for image_id, count in Counter(row.image_id for row in rows).items():
        if most is not None and count > most:
            raise ContradictionError(f"image {image_id} has {count} objects, and max_objects_per_image is {most}")
    for row in rows:
        for contradiction in _contradictions(fingerprint, row):
            raise ContradictionError(f"annotation {row.annotation_id} of image {row.image_id} {contradiction}")


def _contradictions(fingerprint: Mapping[str, Any], row: "ObjectRow") -> Iterator[str]:
    """Yield what cannot be true of an object, as the end of a sentence about it."""
    if row.explained != (not row.missed or fingerprint["target"] == "ground_truth"):
        yield f"is missed and has {'values' if row.explained else 'none'}, and target is {fingerprint['target']!r}"
    if not row.explained:
        return
    yield from _of_the_detection(fingerprint, row)
    yield from _of_the_samples(fingerprint, row)
    yield from _of_the_maps(fingerprint, row)
    yield from _of_the_occlusion(fingerprint, row)


def _of_the_detection(fingerprint: Mapping[str, Any], row: "ObjectRow") -> Iterator[str]:
    score, iou, box = row.score or 0.0, row.iou or 0.0, row.box or (0.0, 0.0, 0.0, 0.0)
    if score < fingerprint["score_threshold"] - _ROUNDING and not row.undetected:
        yield f"has the score {score}, which is below the score_threshold {fingerprint['score_threshold']}"
    if iou < fingerprint["pair_iou"] - _ROUNDING and not row.undetected:
        yield f"has the IoU {iou}, which is below the pair_iou {fingerprint['pair_iou']}"
    if box[0] > box[2] or box[1] > box[3]:
        yield f"has an inverted box, {list(box)}"
    if iou > 0 and (box[0] == box[2] or box[1] == box[3]):
        yield f"has the IoU {iou} and a box without an area, {list(box)}"


def _of_the_samples(fingerprint: Mapping[str, Any], row: "ObjectRow") -> Iterator[str]:
    matched, made = row.matched_samples or 0, row.n_samples or 0
    expected = most_samples(fingerprint, made)
    if matched > made:
        yield "was matched in more noise samples than were made"
    if matched < made and fingerprint["target"] != "output" and "n_samples" in fingerprint:
        yield f"was matched in {matched} of {made} noise samples, and target {fingerprint['target']!r} matches nothing"
    if made > expected or (made < expected and fingerprint.get("tolerance") is None):
        yield f"has {made} noise samples where the settings make {expected}"
    elif row.stopped and fingerprint.get("tolerance") is None:
        yield "was stopped early where the settings have no tolerance"
    elif row.stopped and matched < FEWEST_MATCHED:
        yield f"was stopped early by {matched} matched noise samples, and it takes {FEWEST_MATCHED}"
    if row.trimmed and not fingerprint.get("trim"):
        yield "says what was trimmed of its maps where the settings trim nothing"
    if not matched and set(row.undefined) != set(PARAMETERS):
        yield "has IOF values and was matched in no noise sample"


def _of_the_maps(fingerprint: Mapping[str, Any], row: "ObjectRow") -> Iterator[str]:
    iof = row.iof or {}
    earlier = "near_threshold" not in fingerprint  # of a version that did not know near
    for parameter in PARAMETERS:
        values = {name: value for name, value in iof.items() if name.startswith(f"{parameter}/")}
        if earlier:
            del values[f"{parameter}/near"]
        if len({value is None for value in values.values()}) > 1:
            yield f"has one map of {parameter} that is both defined and undefined"
        thirds = sum(values.get(f"{parameter}/{region}") or 0.0 for region in REGIONS)
        if thirds > (values[f"{parameter}/object"] or 0.0) + _ROUNDING and not earlier:
            yield f"has more of the map of {parameter} on its thirds, {thirds:.6g}, than on the whole"
    if set(BOX_PARAMETERS) <= set(row.undefined) and any(value is not None for value in row.box_maps.values()):
        yield "has values of box_maps and no box map that is defined"
    for name, value in row.edges.items():
        parameter = name.split("/")[1]
        if value is not None and parameter in row.undefined:
            yield f"has {name}, and its map of {parameter} is undefined"
        if value is not None and name.startswith("enrichment/") and not iof.get(f"{parameter}/object"):
            yield f"has {name}, and nothing of its map of {parameter} on the object"


def _of_the_occlusion(fingerprint: Mapping[str, Any], row: "ObjectRow") -> Iterator[str]:
    told = (
        False if row.undetected else fingerprint.get("occlusion")
    )  # such as "blur + grey, inpaint"; False, or absent in earlier versions
    ways = [part.split(" + ") for part in told.split(", ")] if isinstance(told, str) else []
    hidden = {f"{name}/{way}" for name, of_name in zip(OCCLUSION_NAMES, ways, strict=False) for way in of_name}
    if set(row.detected_again) != hidden or set(row.occlusion) != (set(OCCLUSION_NAMES) if hidden else set()):
        yield f"has pixels hidden by {', '.join(sorted(row.detected_again)) or 'nothing'}, and occlusion is {told!r}"
        return
    for name, again in row.detected_again.items():
        nothing = again is not None and again["shift"] is None
        if again is not None and (nothing != (again["iou"] == 0) or (nothing and again["score"] > 0)):
            yield f"is and is not detected again ({name})"
    score = row.score or 0.0
    for name, value in row.occlusion.items():
        scores = [a["score"] for way, a in row.detected_again.items() if a is not None and way.startswith(f"{name}/")]
        if (value is None) != (not scores):
            yield f"has a {name} that does not go with what was detected again"
        elif value is not None and score > 0:
            shares = [min(1.0, s / score) if name == "sufficiency" else max(0.0, 1 - s / score) for s in scores]
            if abs(value - min(shares)) > _ROUNDING + _ROUNDING / score:
                yield f"has the {name} {value}, but what was detected again makes it {min(shares):.6g}"
