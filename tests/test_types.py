"""The records that travel between the parts: chosen from as lists are, and compared without a surprise."""

from dataclasses import fields, replace

import pytest
import torch

from odsg_lightning.types import AuditSample, Detections, ObjectSaliency


def detections(count=4):
    boxes = torch.arange(4.0 * count).view(count, 4)
    return Detections(boxes, torch.linspace(0.9, 0.1, count), torch.arange(count))


def audit_sample():
    image, masks = torch.zeros(3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.bool)
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 3]])
    return AuditSample(image, boxes, torch.tensor([0, 1]), masks, 7, (70, 71), "7.png", ("cat", "dog"))


def saliency():
    return ObjectSaliency(torch.ones(5, 4, 6), 2, 3)


class TestChoosingDetections:
    @pytest.mark.parametrize(
        ("index", "expected"),
        [
            (0, [0]),
            (3, [3]),
            (-1, [3]),
            (-4, [0]),
            (slice(1, 3), [1, 2]),
            (slice(None), [0, 1, 2, 3]),
            (slice(None, None, 2), [0, 2]),
            (slice(-2, None), [2, 3]),
            (slice(4, 9), []),
            ([2, 0], [2, 0]),
            ([1, 1], [1, 1]),
            ([-1], [3]),
            ([], []),
            (torch.tensor([3, 1]), [3, 1]),
            (torch.tensor([-2]), [2]),
            (torch.tensor([], dtype=torch.int64), []),
            (torch.tensor([True, False, False, True]), [0, 3]),
            (torch.zeros(4, dtype=torch.bool), []),
            ([False, True, False, False], [1]),
        ],
    )
    def test_every_kind_of_index(self, index, expected):
        every, chosen = detections(), detections()[index]
        assert type(chosen) is Detections
        assert len(chosen) == len(expected)
        assert chosen.labels.tolist() == expected
        assert torch.equal(chosen.boxes, every.boxes[torch.tensor(expected, dtype=torch.int64)])
        assert torch.equal(chosen.scores, every.scores[torch.tensor(expected, dtype=torch.int64)])

    @pytest.mark.parametrize("index", [4, -5, [4], torch.tensor([9]), torch.tensor([True])])
    def test_what_is_not_there_is_an_error(self, index):
        with pytest.raises(IndexError):
            detections()[index]

    def test_one_after_the_other(self):
        assert [int(one.labels) for one in detections(3)] == [0, 1, 2]
        assert list(detections(0)) == []

    @pytest.mark.parametrize(
        "index", [1, -3, slice(1, 2), [1], torch.tensor([1]), torch.tensor([False, True, False, False])]
    )
    def test_the_graph_stays(self, index):
        image = torch.ones(4, 5, requires_grad=True)
        found = Detections(2 * image[:, :4], 3 * image[:, 4], torch.arange(4))
        for part, place, slope in (("boxes", slice(0, 4), 2), ("scores", 4, 3)):
            (gradient,) = torch.autograd.grad(getattr(found[index], part).sum(), image, retain_graph=True)
            expected = torch.zeros(4, 5)
            expected[1, place] = slope
            assert torch.equal(gradient, expected)
        assert found[index].parameters.requires_grad
        assert not found.detach()[index].parameters.requires_grad


def changed(record, name):
    """The same record with another value, of the same shape."""
    old = getattr(record, name)
    if isinstance(old, torch.Tensor):
        other = ~old if old.dtype == torch.bool else old + 1
    else:
        other = old[::-1] if isinstance(old, tuple) else type(old)(99)
    return replace(record, **{name: other})


RECORDS = [detections, audit_sample, saliency]


@pytest.mark.parametrize("make", RECORDS, ids=lambda make: make.__name__)
class TestComparing:
    def test_equal_values_are_equal(self, make):
        assert (make() == make()) is True
        assert (make() != make()) is False
        record = make()
        assert (record == record) is True

    def test_another_value_in_any_field_is_not(self, make):
        record = make()
        for field in fields(record):
            assert (record == changed(record, field.name)) is False, field.name
            assert (record != changed(record, field.name)) is True, field.name

    def test_another_type_is_not(self, make):
        record = make()
        for other in (None, 1, "text", (), fields(record), torch.zeros(4), *(o() for o in RECORDS if o is not make)):
            assert (record == other) is False
            assert (other == record) is False
            assert (record != other) is True

    def test_in_a_list(self, make):
        assert make() in [None, make()]
        assert [make()].index(make()) == 0
        assert [make(), make()] == [make(), make()]
        assert changed(make(), fields(make())[0].name) not in [make()]

    def test_what_can_change_has_no_hash(self, make):
        with pytest.raises(TypeError, match="unhashable"):
            hash(make())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (detections(4), detections(3)),
        (detections(0), detections(1)),
        (audit_sample(), replace(audit_sample(), image=torch.zeros(3, 6, 5), masks=torch.zeros(2, 6, 5).bool())),
        (audit_sample(), replace(audit_sample(), category_names=())),
        (saliency(), replace(saliency(), maps=torch.ones(5, 6, 4))),
        (saliency(), replace(saliency(), maps=torch.ones(1, 1, 1))),
    ],
)
def test_another_shape_is_not_equal(one, other):
    assert (one == other) is False
    assert (other == one) is False


def test_no_detections_are_equal_to_none():
    assert detections(0) == detections(0)


def test_the_parameters_are_boxes_and_scores():
    assert detections(2).parameters.tolist() == [[0, 1, 2, 3, pytest.approx(0.9)], [4, 5, 6, 7, pytest.approx(0.1)]]


@pytest.mark.parametrize(
    ("boxes", "scores", "labels"),
    [((2, 4), (3,), (3,)), ((3, 4), (3,), (2,)), ((3, 5), (3,), (3,)), ((12,), (3,), (3,))],
)
def test_lengths_that_disagree_are_refused(boxes, scores, labels):
    with pytest.raises(ValueError, match=r"Expected boxes \[K, 4\], scores \[K\] and labels \[K\], but got"):
        Detections(torch.zeros(boxes), torch.zeros(scores), torch.zeros(labels, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.zeros(3, 4, 5, dtype=torch.uint8)}, r"Expected image to be a float tensor \[3, H, W\]"),
        ({"image": torch.zeros(1, 4, 5)}, r"Expected image to be a float tensor \[3, H, W\] .* \(image id 7\)"),
        (
            {"annotation_ids": (70,)},
            r"Expected boxes \[1, 4\], labels \[1\] and masks \[1, 4, 5\] for 1 annotation ids",
        ),
        ({"masks": torch.zeros(2, 5, 4).bool()}, r"masks \[2, 4, 5\] .* \(2, 5, 4\) \(image id 7\)"),
        ({"category_names": ("cat",)}, r"Expected 2 category names or none, but got 1 \(image id 7\)"),
    ],
)
def test_a_sample_whose_parts_do_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(audit_sample(), **changes)


def test_undefined_values_are_the_same_and_other_devices_do_not_raise():
    maps = torch.full((5, 4, 4), torch.nan)
    assert ObjectSaliency(maps, 1, 2) == ObjectSaliency(maps.clone(), 1, 2)
    assert ObjectSaliency(maps, 1, 2) != ObjectSaliency(torch.zeros(5, 4, 4), 1, 2)
    assert ObjectSaliency(maps, 1, 2) != ObjectSaliency(maps.to("meta"), 1, 2)
