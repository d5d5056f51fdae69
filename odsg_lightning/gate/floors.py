"""A candidate without a baseline: what lies below the floors, as warnings."""

from collections.abc import Iterator, Sequence

from odsg_lightning.gate.checks import floor_check
from odsg_lightning.gate.comparison import few_images_warning
from odsg_lightning.gate.config import GateConfig
from odsg_lightning.gate.judging import judged
from odsg_lightning.gate.result import CheckResult, GateResult
from odsg_lightning.gate.values import check_values, image_index
from odsg_lightning.records.record import AuditRecord


def compare_with_floors(candidate: AuditRecord, config: GateConfig | None = None) -> GateResult:
    """Look at a candidate alone: its means against absolute floors, which warn and never decide.

    How much of a detection stands on the object depends on the data as much as on the detector, so no floor can be
    right for all; an accepted baseline says more.

    Args:
        candidate: a record.
        config: its :attr:`~odsg_lightning.gate.config.GateConfig.floors`; None for the defaults.

    Returns:
        A result with the verdict ``no baseline``, a check of level warn for each floor, and a warning for each that is
        not certainly reached.
    """
    config = config or GateConfig()
    values, images = check_values(candidate), image_index(candidate)
    floors = [floor_check(name, "warn", values[name], floor) for name, floor in config.floors.items()]
    results = judged(floors, images, config)
    n_images = int(images.max()) + 1
    return GateResult(
        "no baseline",
        warnings=(*_warnings(results), *few_images_warning(n_images)),
        checks=tuple(results),
        n_accepted=0,
        n_images=n_images,
        n_objects=len(images),
    )


def _warnings(results: Sequence[CheckResult]) -> Iterator[str]:
    words = {"fail": "lies below its floor", "inconclusive": "may lie below its floor", "no data": "has no value"}
    for result in results:
        if result.verdict != "pass":
            name = result.name.removesuffix(" (floor)")
            yield f"{name} {words[result.verdict]}: {result.sentence}."
    if not results:
        yield "The configuration has no floor."
