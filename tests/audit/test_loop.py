import gc
import sys
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers.known_detectors import LinearDetector, QuadraticDetector, box_sample, two_objects
from helpers.known_module import HIDDEN, TWO

from odsg_lightning.audit.choice import chosen_objects, listed_objects
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.measure import fingerprint, object_maps, object_row
from odsg_lightning.audit.pairing import pair_detections
from odsg_lightning.audit.strips import audited_strip
from odsg_lightning.errors import UserInputError
from odsg_lightning.metrics.iof import intersection_over_foreground
from odsg_lightning.saliency.masks import binarise, smoothed
from odsg_lightning.types import AuditSample, Detections


def detector_of(boxes, scores, labels, kind=LinearDetector):
    base = torch.cat([torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores)[:, None]], 1)
    weights = 1e-6 * torch.randn(len(base), 5, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    return kind(base, weights, torch.tensor(labels))


def detections(boxes, scores, labels):
    return Detections(torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores), torch.tensor(labels))


class TestPairing:
    sample = box_sample(TWO, [0, 1])

    def pairs(self, boxes, scores, labels, **settings):
        return pair_detections(self.sample, detections(boxes, scores, labels), AuditConfig(**settings))[0].tolist()

    def test_index_counts_all_detections_not_only_confident_ones(self):
        assert self.pairs([[0, 0, 1, 1], *TWO[::-1]], [0.1, 0.95, 0.99], [0, 1, 0]) == [2, 1]

    def test_score_must_lie_above_the_threshold(self):
        assert self.pairs(TWO, [0.5, 0.75], [0, 1], score_threshold=0.5) == [-1, 1]

    def test_class_must_agree(self):
        assert self.pairs(TWO, [0.95, 0.95], [1, 1]) == [-1, 1]

    def test_overlap_must_reach_one_half(self):
        # 10 x 5 of the 10 x 10 object: IoU 0.5; 10 x 4: 0.4
        assert self.pairs([[2, 2, 12, 7]], [0.95], [0]) == [0, -1]
        assert self.pairs([[2, 2, 12, 6]], [0.95], [0]) == [-1, -1]

    def test_two_detections_of_one_object_give_one_pair(self):
        assert self.pairs([[2, 2, 12, 11], TWO[0]], [0.99, 0.91], [0, 0]) == [1, -1]

    def test_iou_is_reported(self):
        _, ious = pair_detections(self.sample, detections([[2, 2, 12, 7]], [0.95], [0]), AuditConfig())
        assert ious[0] == 0.5
        assert ious[1].isnan()


def test_every_object_comes_back_paired_or_missed():
    sample = box_sample(TWO, [0, 1], first_annotation=40)
    found, missed = audit(detector_of(TWO[:1], [0.95], [0]), [sample], AuditConfig(n_samples=3))
    assert (found.annotation_id, found.key, found.missed) == (40, (1, 40), False)
    assert found.explained.score == pytest.approx(0.95)
    assert found.explained.iou == pytest.approx(1)
    assert found.explained.box.tolist() == pytest.approx(TWO[0])
    assert found.explained.saliency.matched_samples == 3
    assert torch.equal(found.mask, sample.masks[0])
    assert (missed.annotation_id, missed.key, missed.missed, missed.explained) == (41, (1, 41), True, None)


def test_category_is_a_name_or_what_stands_for_it():
    sample = box_sample(TWO, [0, 1])
    named = AuditSample(sample.image, sample.boxes, sample.labels, sample.masks, 1, (1, 2), "", ("cat", "dog"))
    for of, expected in ((sample, ["class 0", "class 1"]), (named, ["cat", "dog"])):
        objects = audit(detector_of(TWO[:1], [0.95], [0]), [of], AuditConfig(n_samples=1))
        assert [found.category for found in objects] == expected


def test_an_object_is_measured_in_the_loop():
    config = AuditConfig(n_samples=2, blur_sigma=0.5, threshold=0.6)
    sample = box_sample(TWO, [0, 1])
    detector = detector_of(TWO, [0.95, 0.96], [0, 1])
    for index, found in enumerate(audit(detector, [sample], config)):
        maps = found.explained.saliency.maps
        assert torch.equal(found.explained.foreground, binarise(maps, 0.5, 0.6))
        expected = intersection_over_foreground(maps[None], sample.masks[[index]], blur_sigma=0.5, threshold=0.6)[0]
        assert torch.equal(found.explained.iof, expected)


def test_an_object_s_maps_are_blurred_once(monkeypatch):
    """Whoever wants its row, its stored maps and its picture afterwards, and however often."""
    calls = []

    def spy(maps, *args, **settings):
        calls.append(maps.shape)
        return smoothed(maps, *args, **settings)

    for module in list(sys.modules.values()):  # wherever it is known by its name
        if module.__name__.startswith("odsg_lightning.") and getattr(module, "smoothed", None) is smoothed:
            monkeypatch.setattr(module, "smoothed", spy)
    config = AuditConfig(n_samples=2)
    samples = [box_sample(TWO, [0, 1], image_id=image_id, first_annotation=10 * image_id) for image_id in (1, 2, 3)]
    objects = list(audit(detector_of(TWO[:1], [0.95], [0]), samples, config))
    detected = [item for item in objects if not item.missed]
    assert (len(objects), len(detected)) == (6, 3)
    assert calls == [(5, 24, 24)] * len(detected)
    for item in objects:
        for _ in range(2):
            strip = audited_strip(item, config)
            assert object_row(item).missed == item.missed
            assert (object_maps(item, strip) is None) == item.missed
    assert len(calls) == len(detected)


class LooksAtTheMiddle(LinearDetector):
    """Detects an object while the pixel in the middle of its box is bright."""

    def detect(self, images):
        found = []
        for image, numbers in zip(images, super().detect(images), strict=True):
            bright = [image[0, (y0 + y1) // 2, (x0 + x1) // 2] >= 100 for x0, y0, x1, y1 in TWO]
            found.append(Detections(numbers.boxes, numbers.scores * torch.stack(bright), numbers.labels))
        return found


def test_what_hiding_pixels_does_is_measured_in_the_loop_object_by_object():
    sample = box_sample(TWO, [0, 1])
    bright = torch.where(sample.masks.any(dim=0), 200.0, 20.0).expand(3, 24, 24).clone()
    detector = LooksAtTheMiddle(*two_objects(dtype=torch.float32, scale=1e-8))
    items = list(audit(detector, [replace(sample, image=bright)], AuditConfig(n_samples=1)))
    assert len(items) == 2
    for item, shown in zip(items, (detector.seen[-2 * HIDDEN : -HIDDEN], detector.seen[-HIDDEN:]), strict=True):
        evidence = item.explained.evidence
        alone, without = evidence.pictures
        assert torch.equal(alone, shown[list(evidence.sufficiency).index(evidence.that_count[0])])
        assert torch.equal(without, shown[len(evidence.sufficiency)])
        assert torch.equal(alone[:, item.mask], bright[:, item.mask])  # the object is as it was
        assert (without[0][item.mask] < 200).all()
        assert next(iter(evidence.sufficiency.values())).score == pytest.approx(item.explained.score, abs=1e-3)
        assert next(iter(evidence.necessity.values())).shift is not None  # at its place, with a score of 0
        assert item.explained.occlusion.tolist() == [1, 1]


def test_a_detector_that_answers_one_of_several_images_is_told_so():
    class OneOnly(LinearDetector):
        def detect(self, images):
            return super().detect(images[:1])

    with pytest.raises(ValueError, match=f"`detect` to return one result for each of {2 * HIDDEN} images, but got 1"):
        list(audit(detector_of(TWO, [0.95, 0.96], [0, 1], OneOnly), [box_sample(TWO, [0, 1])], AuditConfig()))


def test_nothing_is_hidden_where_occlusion_is_off():
    detector = detector_of(TWO, [0.95, 0.96], [0, 1])
    config = AuditConfig(n_samples=2, occlusion=False)
    for item in audit(detector, [box_sample(TWO, [0, 1])], config):
        assert item.explained.evidence is None
        assert item.explained.occlusion.isnan().all()
        assert (object_row(item).occlusion, object_row(item).detected_again) == ({}, {})
    assert len(detector.seen) == 3  # the image and two noise samples


def test_the_maps_are_the_same_with_and_without_occlusion():
    rows = [
        [
            (item.explained.saliency.maps, item.explained.iof)
            for item in audit(
                detector_of(TWO, [0.95, 0.96], [0, 1], QuadraticDetector),
                [box_sample(TWO, [0, 1])],
                AuditConfig(n_samples=3, occlusion=occlusion),
            )
        ]
        for occlusion in (True, False)
    ]
    for with_it, without in zip(*rows, strict=True):
        assert all(torch.equal(*pair) for pair in zip(with_it, without, strict=True))


def test_pictures_with_hidden_pixels_go_when_the_next_image_comes():
    samples = [box_sample(TWO, [0, 1], image_id=number, first_annotation=10 * number) for number in (1, 2)]
    objects = audit(detector_of(TWO, [0.95, 0.96], [0, 1]), samples, AuditConfig(n_samples=1))
    pictures = [weakref.ref(picture) for picture in next(objects).explained.evidence.pictures]
    next(objects)
    assert next(objects).sample is samples[1]
    gc.collect()
    assert [picture() for picture in pictures] == [None, None]


def test_maps_belong_to_their_objects():
    detector = detector_of(TWO[::-1], [0.95, 0.96], [1, 0])
    first, second = audit(detector, [box_sample(TWO, [0, 1])], AuditConfig(n_samples=2))
    torch.testing.assert_close(first.explained.saliency.maps, detector.weights[1].abs().amax(1))
    torch.testing.assert_close(second.explained.saliency.maps, detector.weights[0].abs().amax(1))


def test_gradient_method_is_one_sample_without_noise():
    detector = detector_of(TWO, [0.95, 0.96], [0, 1])
    sample = box_sample(TWO, [0, 1])
    (found, _) = audit(detector, [sample], AuditConfig(explainer="gradient", occlusion=False))
    assert found.explained.saliency.n_samples == 1
    assert all(torch.equal(image, sample.image) for image in detector.seen)


def test_maps_do_not_depend_on_the_other_images_or_their_order():
    samples = [box_sample(TWO, [0, 1], image_id=7), box_sample(TWO, [0, 1], image_id=3, first_annotation=10)]
    config = AuditConfig(n_samples=2)

    def maps(chosen):
        detector = detector_of(TWO, [0.95, 0.96], [0, 1], QuadraticDetector)
        return {found.annotation_id: found.explained.saliency.maps for found in audit(detector, chosen, config)}

    together, reversed_, alone = maps(samples), maps(samples[::-1]), maps(samples[1:])
    for annotation_id in (1, 2, 10, 11):
        assert torch.equal(together[annotation_id], reversed_[annotation_id])
    assert torch.equal(together[10], alone[10])
    assert not torch.equal(together[1], together[10])  # each image has noise of its own


def test_max_objects_of_one_class_are_those_of_the_lowest_annotation_ids():
    sample = box_sample(TWO, [0, 1])
    shuffled = AuditSample(sample.image, sample.boxes, sample.labels, sample.masks, 1, (9, 4))
    shuffled.labels.fill_(0)
    for limit, expected in ((None, [4, 9]), (1, [4])):
        objects = audit(detector_of(TWO, [0.95, 0.96], [0, 0]), [shuffled], AuditConfig(max_objects_per_image=limit))
        assert [found.annotation_id for found in objects] == expected


def test_a_part_of_the_set_is_audited_as_the_whole_would_be():
    samples = [box_sample(TWO, [0, 1], image_id=number, first_annotation=10 * number) for number in (1, 2)]
    config = AuditConfig(max_objects_per_image=1, n_samples=1)
    detector = detector_of(TWO, [0.95, 0.96], [0, 1])
    assert [found.key for found in audit(detector, samples, config)] == [(1, 10), (2, 21)]
    objects = chosen_objects(listed_objects(samples), 1)
    assert [found.key for found in audit(detector, samples[1:], config, objects=objects)] == [(2, 21)]


def test_the_fingerprint_says_how_objects_were_chosen_where_not_all_are_audited():
    assert "objects_chosen" not in fingerprint("0" * 64, AuditConfig())
    assert fingerprint("0" * 64, AuditConfig(max_objects_per_image=1))["objects_chosen"] == "balanced over the classes"


def test_progress_counts_the_same_samples_whatever_is_found():
    for scores in ([0.95, 0.95], [0.1, 0.1]):
        calls = []
        detector = detector_of(TWO, scores, [0, 1])
        list(
            audit(detector, [box_sample(TWO, [0, 1])] * 2, AuditConfig(n_samples=3), on_sample=partial(calls.append, 1))
        )
        assert len(calls) == 6


def test_image_of_the_sample_is_not_touched():
    class Scribbler(LinearDetector):
        def detect(self, images):
            found = super().detect(images)
            with torch.no_grad():
                images[0].zero_()
            return found

    sample = box_sample(TWO, [0, 1])
    list(audit(detector_of(TWO, [0.95, 0.96], [0, 1], Scribbler), [sample], AuditConfig(n_samples=1)))
    assert (sample.image == 128).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"explainer": "lime"}, r"`explainer` to be one of \('smoothgrad', 'gradient', .*, but got 'lime'"),
        ({"n_samples": 0}, "`n_samples` to be an integer of at least 1, but got 0"),
        ({"n_samples": 2.5}, "`n_samples` to be an integer of at least 1, but got 2.5"),
        ({"seed": -1}, "`seed` to be an integer of at least 0, but got -1"),
        ({"max_objects_per_image": 0}, "`max_objects_per_image` to be an integer of at least 1"),
        ({"sigma": float("nan")}, "`sigma` to be a finite number, 0 or more, but got nan"),
        ({"threshold": 1.0}, r"`threshold` to be in \[0, 1\), but got 1.0"),
        ({"score_threshold": 90}, r"`score_threshold` to be in \[0, 1\), but got 90"),
        ({"near_threshold": 1}, r"`near_threshold` to be in \[0, 1\), but got 1"),
        ({"near_margin": -0.1}, "`near_margin` to be a finite number, 0 or more, but got -0.1"),
        ({"sufficiency_margin": float("inf")}, "`sufficiency_margin` to be a finite number, 0 or more, but got inf"),
        ({"necessity_margin": -1}, "`necessity_margin` to be a finite number, 0 or more, but got -1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserInputError, match=message):
        AuditConfig(**settings)
