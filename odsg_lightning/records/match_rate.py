"""How often an object is detected again under noise, and what a ``tolerance`` has to do with it. Loads no torch."""

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odsg_lightning.records.record import ObjectRow

FEWEST_MATCHED = 3
"""No tolerance stops an object before so many matched samples: as in :mod:`odsg_lightning.saliency.early_stop`."""


def match_rate(row: "ObjectRow") -> Fraction | None:
    r"""Estimate the probability that an object is detected again in a noise sample: exact, and without bias.

    :math:`M / n` of :math:`M` matched among :math:`n` samples, but :math:`(M - 1) / (n - 1)` if a ``tolerance`` stopped
    them: by that rule the last one is a match, whatever the probability. How many matches it takes depends on their
    maps alone and not on the samples between them, so this is inverse sampling, ended at ``n_samples`` at the latest.
    Haldane, "On a method of estimating frequencies", 1945; Girshick, Mosteller & Savage, "Unbiased estimates for
    certain binomial sampling problems with applications", 1946.

    Returns:
        0 to 1; None if nothing of the object was explained.

    Example:
        >>> from dataclasses import replace
        >>> from odsg_lightning.records.record import ObjectRow
        >>> row = ObjectRow(1, 1, "a.jpg", "cat", matched_samples=3, n_samples=5, iof={})
        >>> match_rate(row), match_rate(replace(row, stopped=True))
        (Fraction(3, 5), Fraction(1, 2))
    """
    if not row.explained or row.matched_samples is None or not row.n_samples:
        return None
    return Fraction(row.matched_samples - row.stopped, row.n_samples - row.stopped)


def most_samples(fingerprint: Mapping[str, Any], made: int) -> int:
    """Return how many noise samples an object gets that nothing stops; of an explainer without any, the number made.

    Example:
        >>> most_samples({"explainer": "smoothgrad", "n_samples": 20, "tolerance": 0.01}, made=7)
        20
    """
    most: int = 1 if fingerprint["explainer"] == "gradient" else fingerprint.get("n_samples", made)
    return most


def stopped_as_json(fingerprint: Mapping[str, Any], row: "ObjectRow") -> dict[str, bool]:
    """Return the entry ``stopped`` of an explained object: only if its last possible sample stopped it.

    With fewer samples it goes without saying.
    """
    made = row.n_samples or 0
    return {"stopped": True} if row.stopped and made == most_samples(fingerprint, made) else {}


def stopped_from_json(fingerprint: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Return whether a ``tolerance`` ended the samples of an explained object, given as JSON.

    Records from before there was the entry ``stopped`` do not tell an object that its last possible sample stopped from
    one that nothing stopped, and make its match rate :math:`M / n`, which is at most 0.03 too high on average.
    """
    stopped: bool = row.get("stopped", row["n_samples"] < most_samples(fingerprint, row["n_samples"]))
    return stopped
