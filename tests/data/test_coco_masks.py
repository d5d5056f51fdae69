import signal

import numpy as np
import pytest
from helpers.coco_files import rectangle
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as mask_utils

from odsg_lightning.data.coco_masks import rle_counts, segmentation_mask, segmentation_problem


def test_polygon_mask_by_hand():
    expected = np.zeros((30, 40), dtype=bool)
    expected[2:5, 10:14] = True
    expected[20:25, 1:3] = True

    mask = segmentation_mask(rectangle(10, 2, 4, 3) + rectangle(1, 20, 2, 5), 30, 40)

    assert mask.dtype == np.bool_
    assert np.array_equal(mask, expected)


def test_rle_runs_down_the_columns():
    expected = np.array([[0, 1, 0], [1, 1, 0]], dtype=bool)

    assert np.array_equal(segmentation_mask({"size": [2, 3], "counts": [1, 3, 2]}, 2, 3), expected)


@settings(max_examples=60, deadline=None)
@given(mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)).filter(np.any))
def test_compressed_rle_agrees_with_pycocotools(mask):
    encoded = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    height, width = mask.shape

    assert np.array_equal(segmentation_mask(encoded, height, width), mask)
    as_in_json = {"size": [height, width], "counts": encoded["counts"].decode()}
    assert np.array_equal(segmentation_mask(as_in_json, height, width), mask)
    uncompressed = {"size": [height, width], "counts": rle_counts(encoded["counts"])}
    assert np.array_equal(mask_utils.decode(mask_utils.frPyObjects(uncompressed, height, width)).astype(bool), mask)


def test_mask_of_nothing_or_of_a_wrong_size_is_an_error():
    with pytest.raises(ValueError, match=r"^Expected segmentation to be polygons or RLE, but got None\.$"):
        segmentation_mask(None, 30, 40)
    with pytest.raises(ValueError, match=r"^Expected the size of its RLE to be \[5, 5\], but got \[30, 40\]\.$"):
        segmentation_mask({"size": [30, 40], "counts": [100, 5, 1095]}, 5, 5)


@settings(max_examples=50, deadline=None)
@given(
    value=st.just([[0, 0, 9.5, 0, 9, 9]])
    | st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8)
)
def test_any_json_is_either_refused_or_rasterised(value):
    problem = segmentation_problem(value, 30, 40)

    assert isinstance(problem, str) or segmentation_mask(value, 30, 40).shape == (30, 40)


def test_ctrl_c_is_never_taken_for_another_error():
    """As it was in every third case, where pycocotools decoded the mask and NumPy asked its arrays for a copy."""

    def ctrl_c(*_):
        raise KeyboardInterrupt

    def masks_until_interrupted(seconds):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while True:
            segmentation_mask([[1, 1, 20, 1, 20, 20, 1, 20]], 32, 32)

    before = signal.signal(signal.SIGALRM, ctrl_c)
    try:
        for count in range(100):
            with pytest.raises(KeyboardInterrupt):
                masks_until_interrupted(1e-4 * (1 + count % 7))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
