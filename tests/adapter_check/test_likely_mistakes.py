"""The likeliest mistakes in an adapter of one's own: each is found, and told in words that say what to do."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.blob_detector import BOXES, LABELS, BlobDetector, blobs_image
from torch import nn
from torch.nn import functional
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_convert

from odsg_lightning import check_adapter
from odsg_lightning.types import Detections

TRUTH = {"boxes": BOXES, "labels": LABELS}


def made(change, base=BlobDetector):
    """A detector whose answer for each image is changed."""

    class Mistaken(base):
        def one(self, image):
            return change(super().one(image))

    return Mistaken


def seen(change, base=BlobDetector):
    """A detector that changes each image before it looks at it."""

    class Mistaken(base):
        def one(self, image):
            return super().one(change(image))

    return Mistaken


def boxes(change):
    return made(lambda found: replace(found, boxes=change(found.boxes)))


def scores(change):
    return made(lambda found: replace(found, scores=change(found.scores)))


def labels(change):
    return made(lambda found: replace(found, labels=change(found.labels)))


SIZE = torch.tensor([96.0, 80.0, 96.0, 80.0])


class NoGrad(BlobDetector):
    @torch.no_grad()
    def detect(self, images):
        return super().detect(images)


class StacksBatches(BlobDetector):
    def detect(self, images):
        return super().detect(torch.stack(images))


class TakesTheFirst(BlobDetector):
    def detect(self, images):
        return super().detect(images[:1])


class WantsTwo(BlobDetector):
    def detect(self, images):
        first, second = images
        return super().detect([first, second])


class PadsToTheCentre(BlobDetector):
    """To the size of the largest of the batch, and returns boxes in that frame."""

    def detect(self, images):
        sizes = torch.tensor([image.shape[1:] for image in images])
        pads = (sizes.amax(0) - sizes) // 2
        return super().detect(
            [functional.pad(i, [x, x, y, y]) for i, (y, x) in zip(images, pads.tolist(), strict=True)]
        )


class Noisy(BlobDetector):
    def one(self, image):
        return super().one(image + 40 * torch.randn_like(image))


class Resizes(BlobDetector):
    """To a fixed frame, whose boxes it returns."""

    def __init__(self, side):
        super().__init__()
        self.side = side

    def one(self, image):
        return super().one(functional.interpolate(image[None], (self.side, self.side), mode="bilinear")[0])


class TrainsInDetect(BlobDetector):
    def detect(self, images):
        self.train()
        return super().detect(images)


class Dropout(nn.Module):
    """Is held by an adapter that is no module."""

    def __init__(self):
        super().__init__()
        self.model, self.drop = BlobDetector(), nn.Dropout(0.3)

    def forward(self, image):
        return self.model.one(self.drop(image))


class HoldsOutside:
    def __init__(self):
        self.model = Dropout()

    def detect(self, images):
        return [self.model(image) for image in images]


class Counts(BlobDetector):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def detect(self, images):
        self.calls += 1
        return super().detect(images)


class InPlace(BlobDetector):
    def detect(self, images):
        return [super(InPlace, self).one(image.div_(255).mul(255)) for image in images]


class ReturnsDicts(BlobDetector):
    def one(self, image):
        return vars(super().one(image))


class ReturnsOne(BlobDetector):
    def detect(self, images):
        return self.one(images[0])


class CopiesTheImage(BlobDetector):
    def one(self, image):
        return super().one(torch.tensor(image.tolist(), requires_grad=image.requires_grad))


class StraightThrough(BlobDetector):
    """The gradient of the boxes has the wrong sign."""

    def one(self, image):
        found = super().one(image)
        return replace(found, boxes=2 * found.boxes.detach() - found.boxes)


class HalfDetached(BlobDetector):
    """As a decoder whose reference points are detached."""

    def one(self, image):
        found = super().one(image)
        return replace(found, boxes=found.boxes.detach() * 0.5 + found.boxes * 0.5)


class CountsBackground(SSD):
    def __init__(self):
        nn.Module.__init__(self)
        self.blobs = BlobDetector()

    def detect(self, images):
        return [replace(found, labels=found.labels + 1) for found in self.blobs.detect(images)]


def logits(scores):
    return (scores / (1 - scores)).log()


MISTAKES = {
    "no method": (nn.Identity, {}, "adapter", "failure", "Give it a method `detect(images)"),
    "no_grad in forward": (NoGrad, {}, "differentiable", "failure", "Neither boxes nor scores have a graph"),
    "detached boxes": (boxes(torch.detach), {}, "differentiable", "failure", "The boxes have no graph, the scores"),
    "detached scores": (scores(torch.detach), {}, "differentiable", "failure", "The scores have no graph, the boxes"),
    "a copy of the image": (CopiesTheImage, {}, "differentiable", "failure", "ends before it reaches the image"),
    "rounded boxes": (boxes(torch.round), {}, "differentiable", "failure", "all boxes are whole numbers: do not round"),
    "saturated scores": (scores(lambda s: s.clamp(max=0.5)), {}, "differentiable", "warning", "gradient of score is z"),
    "another gradient": (StraightThrough, {}, "finite differences", "failure", "not that of this number"),
    "half a gradient": (HalfDetached, {}, "finite differences", "warning", "a part of the model is outside the graph"),
    "integer boxes": (boxes(torch.Tensor.int), {}, "outputs", "failure", "boxes to be floating point"),
    "NumPy boxes": (boxes(lambda b: b.detach().numpy()), {}, "outputs", "failure", "to be a tensor, but got ndarray"),
    "lists": (boxes(torch.Tensor.tolist), {}, "outputs", "failure", "Lists or NumPy arrays in Detections?"),
    "float labels": (labels(torch.Tensor.float), {}, "outputs", "failure", "use `labels.long()`"),
    "dictionaries": (ReturnsDicts, {}, "outputs", "failure", "wrap each as Detections(boxes, scores, labels)"),
    "no list": (ReturnsOne, {}, "outputs", "failure", "put it into a list"),
    "NaN": (scores(lambda s: s * torch.nan), {}, "outputs", "failure", "Expected scores to be finite"),
    "wrong device": (boxes(lambda b: b.to("meta")), {}, "outputs", "failure", "cpu, but they are on meta: do not"),
    "XYWH": (boxes(lambda b: box_convert(b, "xyxy", "xywh")), {}, "box format", "failure", "Is it XYWH"),
    "CXCYWH": (boxes(lambda b: box_convert(b, "xyxy", "cxcywh")), TRUTH, "box format", "failure", "xywh', 'xyxy')"),
    "rows before columns": (boxes(lambda b: b[:, [1, 0, 3, 2]]), {}, "box format", "failure", "[:, [1, 0, 3, 2]]"),
    "rows first, annotated": (boxes(lambda b: b[:, [1, 0, 3, 2]]), TRUTH, "box format", "failure", "fit the annota"),
    "normalised": (boxes(lambda b: b / SIZE), {}, "box format", "failure", "normalised boxes. Multiply by"),
    "a larger frame": (lambda: Resizes(320), {}, "box frame", "failure", "centre outside the image of 96x80"),
    "a smaller frame": (lambda: Resizes(64), {}, "box frame", "failure", "stay where they are if the image is made"),
    "logits": (scores(logits), {}, "scores", "failure", "logits. Apply the activation"),
    "labels from 1": (labels(lambda n: n + 1), TRUTH, "labels", "failure", "labels from 1 (0 for the background"),
    "labels from 1, counted": (labels(lambda n: n + 1), {"num_classes": 2}, "labels", "failure", "Subtract 1"),
    "labels from 1, torchvision": (CountsBackground, {}, "labels", "warning", "keep 0 for the background"),
    "labels of another order": (labels(lambda n: 1 - n), TRUTH, "labels", "warning", "by ascending id, from 0"),
    "labels below 0": (labels(lambda n: n - 1), {}, "labels", "failure", "stands for the background"),
    "wants 0 to 1": (seen(lambda i: 255 * i.clamp(max=1)), TRUTH, "image range", "failure", "divide by 255 in"),
    "divided twice": (seen(lambda i: i / 255), TRUTH, "image range", "failure", "do not divide by 255 where the model"),
    "BGR": (seen(lambda i: i.flip(0)), TRUTH, "channel order", "warning", "BGR: flip the channels, `image.flip(0)`"),
    "batches only": (WantsTwo, {}, "outputs", "failure", "takes batches [N, 3, H, W] needs `image[None]`"),
    "single images only": (TakesTheFirst, {}, "batch", "failure", "not the first alone"),
    "a look at the batch": (PadsToTheCentre, {}, "image sizes", "warning", "something looks at the whole batch"),
    "one size only": (StacksBatches, {}, "image sizes", "warning", "With images of other sizes: `detect` raised"),
    "not deterministic": (Noisy, {}, "repeatable", "failure", "Two calls on the same image differ"),
    "random numbers": (Noisy, {}, "state", "warning", "draws random numbers"),
    "train() in detect": (TrainsInDetect, {}, "mode", "failure", "Remove the `.train()`"),
    "train mode left on": (HoldsOutside, {}, "mode", "failure", "held by the adapter alone"),
    "an image changed": (InPlace, {}, "state", "failure", "changes the image, in place"),
    "an image changed, graph": (InPlace, {}, "differentiable", "failure", "Write `image / 255`"),
    "a counter": (Counts, {}, "state", "failure", "changes the buffer calls"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_plain_words(mistake):
    make, hints, check, status, words = MISTAKES[mistake]
    hints = {"annotations": hints} if hints is TRUTH else hints
    torch.manual_seed(0)
    finding = check_adapter(make(), blobs_image(), **hints)[check]
    assert words in finding.words, finding.words
    assert finding.status == status


def test_two_detectors_in_one_module_are_told():
    from odsg_lightning.detectors.build import build_detector, load_config

    model = build_detector(load_config("retinanet_tiny"))
    (finding,) = check_adapter(nn.ModuleList([model, copy.deepcopy(model)]), blobs_image()).findings
    assert (finding.check, finding.status) == ("adapter", "failure")
    assert "but found 2" in finding.words
    assert "adapter=lambda module" in finding.words


def test_xywh_whose_corners_are_in_order_is_told_by_how_it_moves():
    class NearTheOrigin(BlobDetector):
        def one(self, image):
            found = super().one(image)
            boxes = box_convert(found.boxes, "xyxy", "xywh")
            return replace(found, boxes=boxes)[found.labels == 0]

    image = torch.full((3, 80, 96), 60.0)
    image[:, 4:50, 6:60] = torch.tensor([220.0, 40.0, 30.0])[:, None, None]
    finding = check_adapter(NearTheOrigin(), image)["box format"]
    assert "move with the image, shifted by (32, 64) pixels, as XYWH (corner, width, height)" in finding.words


def test_nothing_detected_is_a_warning_and_nothing_is_claimed():
    check = check_adapter(BlobDetector(), torch.full((3, 64, 64), 60.0))
    assert check["outputs"].status == "warning"
    assert "Nothing is detected" in check["outputs"].words
    assert {check[name].status for name in ("differentiable", "box format", "box frame", "scores", "labels")} == {
        "undecided"
    }


def test_numpy_on_the_way_is_told():
    class Arrays(BlobDetector):
        def one(self, image):
            return super().one(torch.from_numpy(np.asarray(image)))

    finding = check_adapter(Arrays(), blobs_image())["differentiable"]
    assert finding.status == "failure"
    assert "numpy" in finding.words.lower()
    assert isinstance(Arrays().detect([blobs_image()])[0], Detections)
