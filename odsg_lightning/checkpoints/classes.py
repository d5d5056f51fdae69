"""Which class of a detector each category of an audit set is: by name, and never silently by position."""

import logging
import reprlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from unicodedata import normalize

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.text import plain

log = logging.getLogger(__name__)


def classes_of_categories(
    categories: Sequence[str],
    used: Iterable[int],
    names: Sequence[str] | None,
    count: int | None,
    checkpoint: Path,
) -> list[int]:
    """Return the detector's class for each category of an audit set.

    A detector may know more classes, and in another order. Where it does not say their names, the categories are its
    first classes, and a warning says so.

    Args:
        categories: names of the audit set's categories, by label.
        used: labels of the audited objects. Only their categories must be known to the detector.
        names: names of the detector's classes; None if its checkpoint does not say.
        count: number of the detector's classes; None if that is not known.
        checkpoint: for messages.

    Returns:
        For each label the class; -1 for a category that the detector does not know and no audited object has.

    Raises:
        BrokenInputError: an audited category is unknown to the detector, or its name stands for several.

    Example:
        >>> classes_of_categories(["dent", "scratch"], {0, 1}, ["scratch", "rust", "dent"], 3, Path("model.ckpt"))
        [2, 0]
    """
    if names is None:
        return _by_position(categories, count, checkpoint)
    used = set(used)
    ours, theirs = ([normalize("NFC", name) for name in listed] for listed in (categories, names))
    if theirs[: len(ours)] == ours:
        return list(range(len(ours)))
    known = {name: index for index, name in enumerate(theirs)}
    times, audited = Counter(theirs), {ours[label] for label in used}
    several = sorted(name for name in audited if times[name] > 1 or (name in known and ours.count(name) > 1))
    missing = sorted(audited - known.keys())
    if missing or several:
        what = f"it has no class {_shown(missing)}" if missing else f"several are named {_shown(several)}"
        raise BrokenInputError(
            f"Expected {checkpoint} to know each audited category by name, but {what}. Its classes are "
            f"{_shown(names)}, and the audit set's categories {_shown(categories)}. Choose the audit set from "
            "annotations with the names that the detector was trained on."
        )
    matches = ", ".join(f"{plain(categories[label])}: class {known[ours[label]]}" for label in sorted(used)[:10])
    log.warning(
        "The audit set lists other categories than %s, or in another order: they are matched by name (%s).",
        *(checkpoint, matches),
    )
    return [known.get(name, -1) if times[name] == 1 else -1 for name in ours]


def _by_position(categories: Sequence[str], count: int | None, checkpoint: Path) -> list[int]:
    if count is not None and count < len(categories):
        raise BrokenInputError(
            f"Expected {checkpoint} to be a detector of at least {len(categories)} classes, the number of categories "
            f"of the audit set, but it has {count}."
        )
    log.warning(
        "%s does not say the names of its classes%s: they are taken to be the audit set's categories in ascending id, "
        "%s. Were they numbered otherwise in training, the audit compares the wrong classes.",
        *(checkpoint, "" if count in (None, len(categories)) else f", of which there are {count}", _shown(categories)),
    )
    return list(range(len(categories)))


def _shown(names: Sequence[str]) -> str:
    return plain(reprlib.repr(list(names)), 400)
