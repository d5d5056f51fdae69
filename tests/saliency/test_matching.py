import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from odsg_lightning.saliency.matching import match_one_to_one


def boxes(*rows):
    return torch.from_numpy(np.array(rows, dtype=np.float64).reshape(-1, 4))


def match(a, b, threshold=0.5, labels_a=None, labels_b=None):
    labels_a = torch.zeros(len(a), dtype=torch.int64) if labels_a is None else torch.tensor(labels_a)
    labels_b = torch.zeros(len(b), dtype=torch.int64) if labels_b is None else torch.tensor(labels_b)
    matches, ious = match_one_to_one(a, labels_a, b, labels_b, threshold)
    return matches.tolist(), ious


def test_golden_iou():
    # 10 x 10 boxes shifted by 2: intersection 80, union 120
    matches, ious = match(boxes([0, 0, 10, 10]), boxes([2, 0, 12, 10]))
    assert matches == [0]
    assert ious.item() == 80 / 120


def test_threshold_is_inclusive():
    a, b = boxes([0, 0, 10, 10]), boxes([0, 0, 10, 5])  # IoU exactly 0.5
    assert match(a, b, 0.5)[0] == [0]
    assert match(a, b, 0.5 + 1e-12)[0] == [-1]


def test_other_class_never_matches():
    a = boxes([0, 0, 10, 10])
    assert match(a, a, labels_a=[0], labels_b=[1])[0] == [-1]


def test_each_box_is_matched_at_most_once_and_the_best_pair_wins():
    a = boxes([0, 0, 10, 10], [1, 0, 11, 10])
    b = boxes([1, 0, 11, 10])
    assert match(a, b)[0] == [-1, 0]


def test_equal_pairs_go_to_the_lower_indices():
    a = boxes([0, 0, 10, 10], [0, 0, 10, 10])
    assert match(a, a)[0] == [0, 1]


def test_unmatched_iou_is_nan():
    _, ious = match(boxes([0, 0, 1, 1]), boxes([5, 5, 6, 6]))
    assert ious.isnan().all()


def test_empty_sides():
    a = boxes([0, 0, 1, 1])
    assert match(a, boxes())[0] == [-1]
    assert match(boxes(), a)[0] == []


def brute_force(a, labels_a, b, labels_b, threshold):
    """The definition, in plain loops: take the best remaining pair until none reaches the threshold."""
    result = [-1] * len(a)
    free_a, free_b = set(range(len(a))), set(range(len(b)))
    while True:
        best, pair = -1.0, None
        for i in sorted(free_a):
            for j in sorted(free_b):
                w = min(a[i][2], b[j][2]) - max(a[i][0], b[j][0])
                h = min(a[i][3], b[j][3]) - max(a[i][1], b[j][1])
                inter = max(w, 0) * max(h, 0)
                union = (a[i][2] - a[i][0]) * (a[i][3] - a[i][1]) + (b[j][2] - b[j][0]) * (b[j][3] - b[j][1]) - inter
                iou = inter / union
                if labels_a[i] == labels_b[j] and iou >= threshold and iou > best:
                    best, pair = iou, (i, j)
        if pair is None:
            return result
        result[pair[0]] = pair[1]
        free_a.remove(pair[0])
        free_b.remove(pair[1])


@given(st.integers(0, 2**32 - 1), st.integers(0, 7), st.integers(0, 7), st.sampled_from([0.1, 0.3, 0.5]))
def test_equals_brute_force(seed, n, m, threshold):
    rng = np.random.default_rng(seed)

    def draw(count):
        corner, size = rng.integers(0, 12, (count, 2)), rng.integers(1, 12, (count, 2))
        return np.concatenate([corner, corner + size], 1).astype(float), rng.integers(0, 2, count)

    (a, labels_a), (b, labels_b) = draw(n), draw(m)
    expected = brute_force(a, labels_a, b, labels_b, threshold)
    assert match(boxes(*a), boxes(*b), threshold, labels_a, labels_b)[0] == expected
