"""The tables of the experiment, as Markdown."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from arms import ARMS, MIRRORED, ONE_PASS, PRIMARY, UNTRAINED
from controls import ANOTHER, GAUSSIAN, LINEAR, ROTATED
from measuring import GROWTH
from numpy.typing import NDArray
from results import REGIONS, Results, edge_less_middle
from verdicts import Mean, holm, means_by_image, verdict

from odsg_lightning.names import BOX_PARAMETERS

Rows = list[Sequence[str]]
NEGATIVE = (UNTRAINED, ANOTHER, ROTATED, GAUSSIAN)


def markdown(header: Sequence[str], rows: Rows) -> str:
    """Return a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def primary(results: Sequence[Results]) -> tuple[str, list[str]]:
    """Return the table of the primary outcome, and the verdict of each comparison."""
    rows: Rows = []
    verdicts = []
    for of_detector, name, column, mean, corrected in _comparisons(results, lambda r: r.iof(PRIMARY)):
        iof = of_detector.iof(PRIMARY)[:, column]
        verdicts.append(verdict(mean, corrected))
        regions = [_plain(np.nanmean(iof[:, region])) if mean.count else "" for region in range(4)]
        undefined = str(len(iof) - mean.count)
        numbers = [str(mean.count), undefined, *regions, _interval(mean), _p(corrected)]
        rows.append([of_detector.detector, name, *numbers, verdicts[-1]])
    header = ["detector", "parameter", "n", "undefined", *REGIONS, "edge - middle [95 %]", "p (Holm)", "verdict"]
    return markdown(header, rows), verdicts


def arms(results: Sequence[Results]) -> str:
    """Return the same difference for every method, number of passes, blur and threshold."""
    settings = [(arm.name, "2 px", 0.32) for arm in ARMS[:4]]
    settings += [(PRIMARY, blur, 0.32) for blur in ("none", "relative")]
    settings += [(PRIMARY, "2 px", threshold) for threshold in (0.16, 0.48)]
    settings += [(PRIMARY, "none", threshold) for threshold in (0.16, 0.48)]
    rows: Rows = []
    for kind, blur, threshold in settings:
        rows += _difference_rows(results, [kind, blur, f"{threshold:.2f}"], lambda r: r.iof(kind, blur, threshold))  # noqa: B023
    return markdown(["maps", "blur", "threshold", "detector", *BOX_PARAMETERS, "verdicts"], rows)


def controls(results: Sequence[Results]) -> tuple[str, dict[str, bool]]:
    """Return the controls, and whether each came out as it must."""
    rows: Rows = []
    passed = {}
    for kind in (*NEGATIVE, LINEAR):
        some = _difference_rows(results, [kind], lambda r: r.iof(kind))  # noqa: B023
        found = [verdict(mean, p) for _, _, _, mean, p in _comparisons(results, lambda r: r.iof(kind))]  # noqa: B023
        wanted = found.count("reproduced") == (len(found) if kind == LINEAR else 0)
        passed[kind] = wanted
        for row in some:
            rows.append([*row, "all" if kind == LINEAR else "none", "yes" if wanted else "**no**"])
    header = ["maps", "detector", *BOX_PARAMETERS, "verdicts", "must be reproduced", "as it must be"]
    return markdown(header, rows), passed


def secondary(results: Sequence[Results]) -> str:
    """Return what else the paper says or implies."""
    measures: list[tuple[str, str, Callable[[Results], NDArray[np.float64]]]] = [
        ("edge - opposite", "> 0", lambda r: r.iof(PRIMARY)[..., 0] - r.iof(PRIMARY)[..., 2]),
        ("enrichment, edge", "> 1", lambda r: r.of("enrichment", PRIMARY)[..., 0]),
        ("enrichment, middle", "", lambda r: r.of("enrichment", PRIMARY)[..., 1]),
        ("enrichment, edge - middle", "> 0", lambda r: edge_less_middle(r.of("enrichment", PRIMARY))),
        ("position inside the box (0 own edge, 1 other)", "< 0.5", lambda r: r.of("position", PRIMARY)),
        ("position of the whole map", "< 0.5", lambda r: r.of("centre", PRIMARY)),
        ("share of objects with edge > middle", "> 0.5", lambda r: _share(edge_less_middle(r.iof(PRIMARY)))),
        ("the same without blur", "> 0.5", lambda r: _share(edge_less_middle(r.iof(PRIMARY, "none")))),
        ("C3: own object - another of its class", "> 0", _own_less_other),
        ("C7: edge - a uniform map on the picture", "> 0", _over_picture),
        ("C7: edge / object - a uniform map on the object", "> 0", _over_object),
    ]
    for index, pixels in enumerate(GROWTH):
        word = "eroded" if pixels < 0 else "grown"
        measures.append(
            (f"C8: edge - middle, mask {word} by {abs(pixels)} px", "> 0",
             lambda r, index=index: edge_less_middle(r.values["grown"][:, index].astype(np.float64)))
        )  # fmt: skip
    rows: Rows = []
    for name, wanted, values in measures:
        for of_detector in results:
            means = means_by_image(values(of_detector), of_detector.image)
            cells = [_interval(mean, signed=wanted == "> 0") for mean in means]
            rows.append([name, wanted, of_detector.detector, *cells, str(max(mean.count for mean in means))])
    return markdown(["measure", "claim", "detector", *BOX_PARAMETERS, "n"], rows)


def clarity(results: Sequence[Results]) -> str:
    """Return C4: whether maps of the second method, smoothed, are clearer, and which of the two it is that helps."""
    rows: Rows = []
    for arm in ARMS[:4]:
        for of_detector in results:
            values, single = (
                np.stack(
                    [
                        of_detector.iof(kind)[..., 3].mean(axis=1),
                        edge_less_middle(of_detector.iof(kind)).mean(axis=1),
                        of_detector.of("gini", kind),
                    ],
                    axis=1,
                )
                for kind in (arm.name, ONE_PASS)
            )
            halves = of_detector.of("halves", arm.name)[:, None]
            means = means_by_image(np.concatenate([values, values - single, halves], axis=1), of_detector.image)
            signed = [False, True, False, True, True, True, False]
            cells = [_interval(mean, sign) for mean, sign in zip(means, signed, strict=True)]
            if arm.name == ONE_PASS:
                cells[3:6] = [""] * 3
            rows.append([arm.name, of_detector.detector, *cells, str(means[0].count)])
    names = ["IOF, object", "edge - middle", "Gini"]
    less = [f"{name}, less {ONE_PASS}" for name in names]
    return markdown(["maps", "detector", *names, *less, "correlation of two halves", "n"], rows)


def mirror(results: Sequence[Results]) -> str:
    """Return what the mirrored picture says of the network's shift, and the difference when both are averaged.

    On data without a preferred side the right edge is to x_max what the left edge is to x_min. What the mirrored
    picture says of a parameter comes from the other one: where they disagree, it is the network that is lopsided.
    """
    rows: Rows = []
    for of_detector in results:
        width, height = of_detector.values["extent"].astype(np.float64).T
        both = (edge_less_middle(of_detector.iof(PRIMARY)) + edge_less_middle(of_detector.iof(MIRRORED))) / 2
        for name, label in (("centre", "the whole map"), ("position", "inside the box")):
            place, turned = of_detector.of(name, PRIMARY), of_detector.of(name, MIRRORED)
            columns = [
                place[:, 0], turned[:, 0], place[:, 2], turned[:, 2],
                (place[:, 2] - place[:, 0]) / 2 * width, (turned[:, 0] - place[:, 0]) / 2 * width,
                (place[:, 3] - place[:, 1]) / 2 * height,
            ]  # fmt: skip
            means = means_by_image(np.stack(columns, axis=1), of_detector.image)
            cells = [_interval(mean, signed=number > 3) for number, mean in enumerate(means)]
            rows.append([of_detector.detector, label, *cells, f"{means[0].count}, {means[1].count}"])
        means = means_by_image(both, of_detector.image)
        cells = [_interval(means[0]), "", _interval(means[2]), "", "", "", "", str(means[0].count)]
        rows.append([of_detector.detector, "edge - middle, both averaged", *cells])
    header = [
        "detector", "position of", "x_min", "x_min, mirrored", "x_max", "x_max, mirrored",
        "shift left, px", "by the mirror, px", "shift up, px", "n, mirrored",
    ]  # fmt: skip
    return markdown(header, rows)


def strata(results: Sequence[Results], class_names: Sequence[str]) -> str:
    """Return the difference by training, class and size, with and without the blur."""
    rows: Rows = []
    for of_detector in results:
        for name, keep in _groups(of_detector, class_names):
            for blur in ("2 px", "none"):
                difference = edge_less_middle(of_detector.iof(PRIMARY, blur))[keep]
                means = means_by_image(difference, of_detector.image[keep])
                rows.append([of_detector.detector, name, blur, *map(_interval, means), str(int(keep.sum()))])
    return markdown(["detector", "objects", "blur", *BOX_PARAMETERS, "n"], rows)


def _groups(of_detector: Results, class_names: Sequence[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for index, name in enumerate(of_detector.trainings):
        yield name, of_detector.training == index
    for label in np.unique(of_detector.values["label"]):
        yield class_names[label], of_detector.values["label"] == label
    size = of_detector.values["size"]
    low, high = np.quantile(size, [1 / 3, 2 / 3])
    for number, (name, bounds) in enumerate(
        {"small": (size.min(), low), "medium": (low, high), "large": (high, size.max())}.items()
    ):
        inside = (size >= bounds[0]) & ((size < bounds[1]) if number < 2 else (size <= bounds[1]))
        yield f"{name}, {bounds[0]:.0f} to {bounds[1]:.0f} px", inside


def _comparisons(
    results: Sequence[Results], iof: Callable[[Results], NDArray[np.float64]]
) -> Iterator[tuple[Results, str, int, Mean, float]]:
    """Yield every comparison of edge and middle with its p-value, corrected for all of them."""
    found = [
        (of_detector, name, column, mean)
        for of_detector in results
        for column, (name, mean) in enumerate(
            zip(BOX_PARAMETERS, means_by_image(edge_less_middle(iof(of_detector)), of_detector.image), strict=True)
        )
    ]
    known = [row for row, (*_, mean) in enumerate(found) if mean.count]
    corrected = dict(zip(known, holm([found[row][3].p for row in known]), strict=True))
    for row, (of_detector, name, column, mean) in enumerate(found):
        yield of_detector, name, column, mean, corrected.get(row, float("nan"))


def _difference_rows(
    results: Sequence[Results], first: Sequence[str], iof: Callable[[Results], NDArray[np.float64]]
) -> Rows:
    rows: Rows = []
    found = list(_comparisons(results, iof))
    for of_detector in results:
        own = [(mean, verdict(mean, p)) for other, _, _, mean, p in found if other is of_detector]
        letters = "".join({"reproduced": "+", "contradicted": "-", "undecided": "?"}[word] for _, word in own)
        rows.append([*first, of_detector.detector, *(_interval(mean) for mean, _ in own), f"`{letters}`"])
    return rows


def _own_less_other(results: Results) -> NDArray[np.float64]:
    return results.iof(PRIMARY)[..., 3] - results.values["same_class"].astype(np.float64)


def _over_picture(results: Results) -> NDArray[np.float64]:
    share = results.values["covered"][:, None] * results.values["area"][..., 0]
    return results.iof(PRIMARY)[..., 0] - share.astype(np.float64)


def _over_object(results: Results) -> NDArray[np.float64]:
    iof = results.iof(PRIMARY)
    with np.errstate(invalid="ignore"):
        return iof[..., 0] / iof[..., 3] - results.values["area"][..., 0].astype(np.float64)


def _share(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values > 0, np.nan)


def _interval(mean: Mean, signed: bool = True) -> str:
    if not mean.count:
        return "none"
    sign = "+" if signed else ""
    return f"{mean.mean:{sign}.3f} [{mean.low:{sign}.3f}, {mean.high:{sign}.3f}]"


def _plain(value: float) -> str:
    return f"{value:.3f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
