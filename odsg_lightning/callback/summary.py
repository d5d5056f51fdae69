"""An audit for people to read: its means, and which objects to look at first; as Markdown and as a table."""

from collections.abc import Mapping, Sequence

from odsg_lightning.names import OCCLUSION_NAMES, PARAMETERS, REGIONS
from odsg_lightning.records.maps_file import Key
from odsg_lightning.records.record import ObjectRow
from odsg_lightning.text import markdown, number

_WORST = 5
_LISTED = 20
_LOW = 0.5  # of sufficiency or necessity: the object is named
_COLUMNS = (*REGIONS, "object", "near")
_LEANING = ("enrichment", "position")  # of the edge third; of the mass
_HEADLINE = (*(f"occlusion/{name}" for name in OCCLUSION_NAMES), "audit/defined", "audit/match_rate")

WORST_COLUMNS = ("category", "image", "annotation", "score", "IoU", *OCCLUSION_NAMES, "IOF near", "IOF object")


def worst_objects(rows: Sequence[ObjectRow]) -> list[list[str | int | float | None]]:
    """Return the objects to look at first, at most 20, with the columns :data:`WORST_COLUMNS`.

    An object is as bad as the lowest of its sufficiency, its necessity and its IOF near. Missed ones are left out, and
    so are those without any of these values.
    """
    ranked = []
    for row in rows:
        occlusion = [row.occlusion.get(name) for name in OCCLUSION_NAMES]
        near = row.box_mean("near")
        judged = [value for value in (*occlusion, near) if value is not None]
        if judged and not row.missed:
            values = (row.score, row.iou, *occlusion, near, row.object_iof)
            rounded = [None if value is None else round(value, 3) for value in values]
            ranked.append((min(judged), [row.category, *row.key, *rounded]))
    return [cells for _, cells in sorted(ranked, key=lambda item: item[0])[:_LISTED]]


def summary(rows: Sequence[ObjectRow], scalars: Mapping[str, float], lost: Sequence[Key]) -> str:
    """Return an audit as Markdown: the means, and which objects to look at. See :meth:`Dashboard.log`."""
    names = {row.key: _name(row) for row in rows}
    detected = sum(not row.missed for row in rows)
    worst = sorted((row for row in rows if row.object_iof is not None), key=lambda row: row.object_iof or 0.0)
    undefined = [f"{names[row.key]} ({', '.join(row.undefined)})" for row in rows if row.undefined]
    ranked = [
        [names[row.key], _two_digits(row.object_iof), _two_digits(row.score), _two_digits(row.iou)]
        for row in worst[:_WORST]
    ]
    means = {name.partition("/")[2].replace("_", " "): scalars.get(name) for name in _HEADLINE if name in scalars}
    shown = [f"{name} {_two_digits(value) or 'undefined'}" for name, value in means.items()]
    parts = [
        ", ".join([f"**{detected} of {len(rows)} objects detected**", *shown]),
        *_unsound(rows, names),
        _table(["IOF", *_COLUMNS, *_LEANING], [_means(scalars, parameter) for parameter in (*PARAMETERS, "")]),
        "**Least on the object**",
        _table(["object", "IOF", "score", "IoU"], ranked) if ranked else "none",
        f"**Missed since the audit before**: {_listed([names[key] for key in lost if key in names])}",
        f"**Missed**: {_listed([names[row.key] for row in rows if row.missed])}",
        f"**Undefined maps**: {_listed(undefined)}",
    ]
    return "\n\n".join(parts)


def _unsound(rows: Sequence[ObjectRow], names: Mapping[Key, str]) -> list[str]:
    """Name the objects whose detection does not stand alone, and those whose detection stands without them."""
    parts = []
    for name, title in (("sufficiency", "Lost with all else hidden"), ("necessity", "Detected with the object hidden")):
        values = [(row.occlusion[name], row) for row in rows if row.occlusion.get(name) is not None]
        low = sorted(((value, row.key, row) for value, row in values if value is not None and value < _LOW))
        if low:
            cells = [[names[key], _two_digits(value), _two_digits(row.box_mean("near"))] for value, key, row in low]
            parts += [f"**{title}**: {len(low)} of {len(values)}", _table(["object", name, "IOF near"], cells[:_WORST])]
    return parts


def _means(scalars: Mapping[str, float], parameter: str) -> list[str]:
    middle = f"/{parameter}/" if parameter else "/"
    names = [f"iof{middle}{region}" for region in _COLUMNS] + [f"enrichment{middle}edge"]
    names.append(f"position/{parameter or 'mean'}")
    return [parameter or "box mean", *(_two_digits(scalars.get(name)) for name in names)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _two_digits(value: float | None) -> str:
    return number(value, 2, missing="")


def _name(row: ObjectRow) -> str:
    return f"{markdown(row.category)}, image {row.image_id}, annotation {row.annotation_id}"


def _listed(names: Sequence[str]) -> str:
    more = f"; and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ("; ".join(names[:_LISTED]) or "none") + more
