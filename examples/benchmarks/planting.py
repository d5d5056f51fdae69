"""Last layers in closed form: ridge regression makes a detector with random features see given boxes.

A random network with sound statistics has features that tell any place of one picture from any other. So, as in a
linear probe, only the last linear layers are solved for: their targets are what a trained detector would answer.

Glossary: ``K`` planted objects; ``A`` anchors of a cell; ``R`` rows of a regression (cells or proposals), ``D`` its
features; ``J`` score channels of an anchor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torchvision.ops import box_iou

PRESENT, ABSENT = 2.5, -6.0
"""Logits of an object where it is seen best (0.92) and where there is none."""

PENALTIES = 0.1, 10.0
"""Of the ridge regressions for scores and boxes. A box may shrink towards its anchor, but must hardly move."""

RPN_PENALTIES = 0.001, 0.1
"""An RPN has a tenth of the features, and its boxes need not be steady."""

_HARD = -4.0  # a logit above this where nothing is: a mistake to learn from


def ridge(rows: Tensor, targets: Tensor, weights: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Solve weighted least squares with a constant term.

    Args:
        rows: ``[R, D]``.
        targets: ``[R, T]``.
        weights: ``[R]``.
        penalty: of the squared coefficients, relative to the mean variance of a feature.

    Returns:
        Coefficients ``[T, D]`` and constants ``[T]``.
    """
    weights = (weights / weights.sum())[:, None]
    mean, target_mean = (weights * rows).sum(0), (weights * targets).sum(0)
    centred = (rows - mean) * weights.sqrt()
    gram = (centred.T @ centred).double()
    moments = (centred.T @ ((targets - target_mean) * weights.sqrt())).double()
    gram.diagonal().add_(penalty * gram.diagonal().mean())
    coefficients = torch.linalg.solve(gram, moments, left=True).to(rows.dtype).T
    return coefficients, target_mean - coefficients @ mean


def standardise(layer: nn.Module, outputs: Sequence[Tensor]) -> None:
    """Change a convolution or linear layer so that each channel of its outputs has mean 0 and variance 1.

    That is what normalisation layers do for a trained network: without it, every further layer of a random network
    makes all places look more alike.

    Args:
        layer: with ``weight`` and ``bias``.
        outputs: of the layer as it is, ``[N, C, ...]`` each.
    """
    values = torch.cat([output.transpose(0, 1).flatten(1) for output in outputs], dim=1)
    mean, scale = values.mean(1), values.std(1) + 1e-3
    layer.weight.div_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias
    layer.bias = nn.Parameter((bias - mean) / scale, requires_grad=False)


@dataclass(frozen=True)
class DenseHead:
    """A head that answers for the anchors of every cell: RetinaNet's, or the RPN's.

    Attributes:
        scores: its last convolution for scores, ``A * n`` channels for n classes.
        deltas: its last convolution for boxes, ``A * 4`` channels.
        transform: Detectron2's Box2BoxTransform.
        n_classes: n; 1 for the RPN, whose only class is "object".
        penalties: of the ridge regressions for scores and boxes.
    """

    scores: nn.Conv2d
    deltas: nn.Conv2d
    transform: Any
    n_classes: int
    penalties: tuple[float, float] = PENALTIES

    def plant(
        self,
        hidden: Sequence[Sequence[tuple[Tensor, Tensor]]],
        anchors: Sequence[Tensor],
        boxes: Tensor,
        generator: torch.Generator,
        far_rows: int = 600,
        rounds: int = 3,
    ) -> None:
        """Solve both convolutions; object k gets class k where there are classes.

        Args:
            hidden: for each copy of the image and each level, the inputs ``[1, C, h, w]`` of the two convolutions.
            anchors: ``[h * w * A, 4]`` of each level.
            boxes: ``[K, 4]``.
            generator: chooses cells without an object.
            far_rows: cells without an object, per copy of the image.
            rounds: of adding the cells without an object that the last solution took for one.
        """
        answers = _DenseAnswers(anchors, boxes, self.deltas.out_channels // 4, self.transform, self.n_classes > 1)
        near = answers.present.flatten(1).amax(1) > 0
        copies = [
            [torch.cat([_patches(level[part], conv) for level in levels]) for levels in hidden]
            for part, conv in enumerate((self.scores, self.deltas))
        ]
        chosen = []
        for _ in hidden:
            far = (~near).nonzero().flatten()
            picked = far[torch.randperm(len(far), generator=generator)[:far_rows].to(far.device)]
            chosen.append(near.clone().index_fill_(0, picked, True))
        for _ in range(rounds):
            rows = torch.cat([copy[rows] for copy, rows in zip(copies[0], chosen, strict=True)])
            targets = torch.cat([ABSENT + (PRESENT - ABSENT) * answers.present[rows].flatten(1) for rows in chosen])
            seen = torch.cat([answers.present[rows].flatten(1).amax(1) for rows in chosen])
            weights = _balanced(seen)
            coefficients, constants = ridge(rows, targets, weights, self.penalties[0])
            for copy, picked in zip(copies[0], chosen, strict=True):
                logits = (copy @ coefficients.T + constants).amax(1)
                picked |= ~near & (logits > max(_HARD, logits[~near].sort().values[-far_rows:][0]))
        self._write(coefficients, constants)
        rows = torch.cat([copy[rows] for copy, rows in zip(copies[1], chosen, strict=True)])
        targets = torch.cat([answers.deltas[rows].flatten(1) for rows in chosen])
        # What counts is the box of the anchors that win; a little weight keeps the others near their anchors.
        weights = torch.cat([answers.present[rows].flatten(1).amax(1).square().clamp(min=0.02) for rows in chosen])
        coefficients, constants = ridge(rows, targets, weights, self.penalties[1])
        self.deltas.weight.copy_(coefficients.view_as(self.deltas.weight))
        self.deltas.bias.copy_(constants)

    def _write(self, coefficients: Tensor, constants: Tensor) -> None:
        """Put the solution into the score channels of the planted classes; the others stay at "nothing here"."""
        n_anchors = self.scores.out_channels // self.n_classes
        weight = self.scores.weight.view(n_anchors, self.n_classes, *self.scores.weight.shape[1:])
        bias = self.scores.bias.view(n_anchors, self.n_classes)
        weight.mul_(0.01)
        bias.fill_(ABSENT)
        planted = len(constants) // n_anchors
        weight[:, :planted] = coefficients.view(n_anchors, planted, *weight.shape[2:])
        bias[:, :planted] = constants.view(n_anchors, planted)


def _balanced(seen: Tensor) -> Tensor:
    """Weigh rows so that objects, however few cells see them well, count as much as all that is none.

    Args:
        seen: ``[R]`` 0 to 1: how well a row sees an object.
    """
    absent = (seen == 0).float()
    return absent / absent.sum() + 3 * seen.square() / seen.square().sum() + (1 - absent) / len(seen)


class _DenseAnswers:
    """What a trained head would answer at every cell of every level.

    Attributes:
        present: ``[cells, A, J]`` 0 to 1: 1 at an object's best anchors, falling to 0 at an IoU of 0.3.
        deltas: ``[cells, A, 4]`` to the object that overlaps the cell's anchors most; 0 where none does.
    """

    def __init__(self, anchors: Sequence[Tensor], boxes: Tensor, n_anchors: int, transform: Any, classes: bool) -> None:
        flat = torch.cat(list(anchors))
        iou = box_iou(flat, boxes)
        best = iou.amax(0).clamp(min=0.4)
        present = ((iou - 0.3) / (best - 0.3)).clamp(0, 1).view(-1, n_anchors, len(boxes))
        nearest = present.amax(1).argmax(1)
        deltas = transform.get_deltas(flat, boxes[nearest].repeat_interleave(n_anchors, dim=0)).view(-1, n_anchors, 4)
        self.deltas = deltas * (present.flatten(1).amax(1) > 0)[:, None, None]
        self.present = present if classes else present.amax(2, keepdim=True)


def _patches(features: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return what the convolution sees at each cell, ``[h * w, D]`` in the order of its weights."""
    return functional.unfold(features, conv.kernel_size, padding=conv.padding)[0].T


def plant_predictor(predictor: nn.Module, rows: Tensor, proposals: Tensor, boxes: Tensor) -> None:
    """Solve the last layers of Faster R-CNN's box head; object k gets class k.

    Args:
        predictor: Detectron2's FastRCNNOutputLayers.
        rows: ``[R, D]`` features of proposals.
        proposals: ``[R, 4]``.
        boxes: ``[K, 4]``.
    """
    iou = box_iou(proposals, boxes)
    present = ((iou - 0.3) / 0.5).clamp(0, 1)
    weights = _balanced(present.amax(1))
    coefficients, constants = ridge(rows, ABSENT + (PRESENT - ABSENT) * present, weights, PENALTIES[0])
    predictor.cls_score.weight.mul_(0.01)
    predictor.cls_score.bias.fill_(ABSENT - 4)  # 80 classes share the probability that softmax leaves
    predictor.cls_score.bias[-1] = 0  # the background, in the place of the sigmoid's other side
    predictor.cls_score.weight[: len(boxes)] = coefficients
    predictor.cls_score.bias[: len(boxes)] = constants
    deltas = torch.cat(
        [
            predictor.box2box_transform.get_deltas(proposals, box.expand_as(proposals)) * (iou[:, [k]] > 0.3)
            for k, box in enumerate(boxes)
        ],
        dim=1,
    )
    coefficients, constants = ridge(rows, deltas, present.amax(1).square().clamp(min=0.02), PENALTIES[1])
    predictor.bbox_pred.weight[: 4 * len(boxes)] = coefficients
    predictor.bbox_pred.bias[: 4 * len(boxes)] = constants
