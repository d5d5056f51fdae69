"""A detector whose candidates are known: two places, three logits and a box at each, all linear in the pixels."""

import torch
from helpers.known_detectors import IMAGE, LinearDetector, two_objects

from odsg_lightning.types import Candidates, Detections


class WithLogits(LinearDetector):
    """Its head has three logits and a box at each of two places, all linear in the pixels."""

    def __init__(self):
        super().__init__(*two_objects())
        generator = torch.Generator().manual_seed(5)
        self.by_class = 1e-4 * torch.randn(2, 3, *IMAGE.shape, generator=generator, dtype=torch.float64)

    def logits(self, rows, image):
        return torch.einsum("kachw,chw->ka", self.by_class[rows], image - 128)

    def candidates_of_detections(self, image):
        (found,) = self.detect([image])
        return found.detach(), candidates([0, 1], self.labels)

    def candidates_for_objects(self, image, boxes, labels):
        return candidates([1] * len(labels), labels)

    def confident_candidates(self, image, threshold):
        return candidates([0, 1, 1], torch.tensor([0, 1, 0]))

    def outputs_of(self, asked):
        return _Outputs(self, asked)


class _Outputs:
    def __init__(self, whole, asked):
        self.whole, self.asked = whole, asked

    def detect(self, images):
        found = []
        for image in images:
            (everything,) = self.whole.detect([image])
            logits = self.whole.logits(self.asked.rows, image)
            scores = logits.gather(1, self.asked.labels[:, None])[:, 0]
            other = logits.gather(1, self.asked.against.clamp(min=0)[:, None])[:, 0]
            scores = torch.where(self.asked.against < 0, scores, scores - other)
            found.append(Detections(everything.boxes[self.asked.rows], scores, self.asked.labels))
        return found

    def probabilities(self, image):
        return torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)[self.asked.rows]


def candidates(rows, labels):
    rows, labels = torch.tensor(rows), labels.clone()
    return Candidates(10.0 + rows[:, None].expand(-1, 4).float(), labels, rows, torch.full_like(labels, -1))
