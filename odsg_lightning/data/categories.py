"""A detector's classes are the categories of its COCO files, which must agree on them."""

import reprlib

from odsg_lightning.data.coco import CocoDataset


def require_same_categories(train: CocoDataset, val: CocoDataset) -> None:
    """Refuse two files of which a label would mean different things.

    Raises:
        ValueError: names what is in one of them only.
    """
    ours, theirs = (set(zip(d.category_ids, d.category_names, strict=True)) for d in (train, val))
    if ours != theirs:
        raise ValueError(
            f"Expected {train.source} and {val.source} to list the same categories, but {_differences(ours, theirs)} "
            f"in training only, and {_differences(theirs, ours)} in validation only. Write the full list into both "
            "files."
        )


def _differences(here: set[tuple[int, str]], there: set[tuple[int, str]]) -> str:
    return reprlib.repr([f"{category_id}: {name}" for category_id, name in sorted(here - there)])
