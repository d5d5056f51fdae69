"""The cut engine on trained detectors: the gradients of plain autograd, and no trace on the model."""

import copy
import gc
import warnings
import weakref
from itertools import combinations

import pytest
import torch
from helpers.engine_cases import (
    assert_as_plain_autograd,
    cut_through,
    finding_much,
    first,
    image_with,
    on_image,
    unclipped,
    untouched,
)

from odsg_lightning.audit.isolation import isolated
from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.detectors.engine.cut import CutLinearization
from odsg_lightning.saliency.gradients import AutogradLinearization


def cut(adapter, image):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # no fallback
        linearization = adapter.linearize(image, engine="cut")
    assert isinstance(linearization, CutLinearization)
    return linearization


def origins(linearization):
    """Return where each detection comes from: anchors (level, cell, number) or proposals."""
    (head,), (outputs,) = linearization._batch._head.records, linearization._batch._outputs
    levels = len(head.leaves) // 2
    found = []
    for score, x_min in zip(outputs.scores, outputs.boxes[:, 0], strict=True):
        by_score = torch.autograd.grad(score, head.leaves, retain_graph=True, materialize_grads=True)
        by_box = torch.autograd.grad(x_min, head.leaves, retain_graph=True, materialize_grads=True)
        rows = {(i, row) for i in range(levels) for row in by_score[i].nonzero()[:, 0].tolist()}
        assert {(i, row) for i in range(levels) for row in by_box[levels + i].nonzero()[:, 0].tolist()} <= rows
        ((level, row),) = rows
        if hasattr(head, "rows"):  # RetinaNet
            output = head.outputs[levels + level]
            found.append((level, *divmod(int(head.rows[level][row]), output.shape[1] // 4)))
        else:
            found.append(row)
    return found


def leaves_behind(nodes):
    """Return the tensors at which a graph starts."""
    found, seen = [], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found += [node.variable] if hasattr(node, "variable") else []
            nodes += [following for following, _ in node.next_functions]
    return found


def shared_places(places):
    """Whether an anchor or a proposal has two detections, and, of anchors, whether a cell has two of them."""
    pairs = list(combinations(places, 2))
    cells = not isinstance(places[0], tuple) or any(a[:2] == b[:2] and a[2] != b[2] for a, b in pairs)
    return cells and any(one == other for one, other in pairs)


def images(trained):
    return [sample.image for sample in trained.samples]


@pytest.mark.slow
class TestExact:
    def test_shared_anchors_cells_and_proposals_at_the_border(self, trained):
        adapter = Detectron2Adapter(finding_much(trained.model))

        def has_all_of_it(image):
            linearization = cut(adapter, image)
            inside = unclipped(linearization.detections, image)
            return 0 < len(inside) < len(linearization.detections) and shared_places(origins(linearization))

        image = first(map(cut_through, trained.samples), has_all_of_it)
        plain = assert_as_plain_autograd(adapter, image)
        clipped = [(gradient[:4] == 0).flatten(1).all(dim=1).any() for gradient in plain]
        assert any(clipped)  # coordinates at the image border
        assert not all(clipped)

    def test_single_precision(self, trained):
        adapter = Detectron2Adapter(trained.model)
        assert_as_plain_autograd(adapter, image_with(adapter, images(trained)[1:], 1), tolerance=1e-4)

    def test_rgb(self, trained):
        adapter = Detectron2Adapter(finding_much(trained.model), input_format="RGB")
        image = image_with(adapter, [image.double() for image in images(trained)[2:]], 4)
        assert_as_plain_autograd(adapter, image, [0, 3])

    def test_detections_are_those_of_the_model(self, trained):
        adapter = Detectron2Adapter(trained.model)
        image = image_with(adapter, images(trained)[3:], 1)
        with torch.no_grad():
            (expected,) = adapter.detect([image])
        found = cut(adapter, image).detections
        assert not found.parameters.requires_grad
        for field in ("boxes", "scores", "labels"):
            assert torch.equal(getattr(found, field), getattr(expected, field))

    def test_indices_in_any_order_and_again(self, trained):
        adapter = Detectron2Adapter(trained.model)
        image = image_with(adapter, images(trained), 2)
        linearization = cut(adapter, image)
        one, other, again = [on_image(gradient, image) for gradient in linearization.gradients(iter([1, 0, 1]))]
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        (plain,) = AutogradLinearization(adapter, image).gradients([0])
        torch.testing.assert_close(other, plain.values, rtol=0, atol=1e-4 * float(plain.values.abs().max()))


@pytest.mark.slow
class TestNoTrace:
    @pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode, torch.enable_grad])
    def test_with_trainable_parameters_in_every_grad_mode(self, trained, outer):
        adapter = Detectron2Adapter(trained.model)
        image = image_with(adapter, images(trained), 2)
        assert any(parameter.requires_grad for parameter in trained.model.parameters())
        with untouched(trained.model), outer():
            linearization = cut(adapter, image)
            gradients = linearization.gradients([0, 1])
            with untouched(trained.model):
                found = next(gradients)
            assert (found.values != 0).any()
            assert not linearization.detections.parameters.requires_grad
            assert len(list(gradients)) == 1

    def test_isolated(self, trained):
        adapter = Detectron2Adapter(trained.model)
        with isolated(trained.model):
            assert_as_plain_autograd(adapter, image_with(adapter, images(trained), 1), [0], tolerance=1e-4)

    @pytest.mark.parametrize("part", ["backbone", "head", "behind"])
    def test_after_an_error(self, trained, part, monkeypatch):
        adapter, image = Detectron2Adapter(copy.deepcopy(trained.model)), trained.samples[0].image
        model = adapter.model
        head = model.head.cls_score if hasattr(model, "head") else model.roi_heads.box_head.fc1
        target = {"backbone": model.backbone.bottom_up.res3, "head": head, "behind": None}[part]

        def fail(*args, **kwargs):
            raise ZeroDivisionError("on purpose")

        if target is None:
            monkeypatch.setattr("odsg_lightning.detectors.detectron2_model.Detections", fail)
        else:
            target.register_forward_hook(fail)
        for outer in (torch.no_grad, torch.enable_grad):
            with untouched(model), outer(), pytest.raises(ZeroDivisionError):
                adapter.linearize(image, engine="cut")

    def test_no_graph_goes_through_parameters(self, trained):
        adapter = Detectron2Adapter(trained.model)
        linearization = cut(adapter, image_with(adapter, images(trained), 1))
        batch = linearization._batch
        ((record,), (outputs,)) = batch._head.records, batch._outputs
        starts = [feature.grad_fn for feature in batch._backbone._features.values()]
        ends = leaves_behind([outputs.boxes.grad_fn, outputs.scores.grad_fn, *starts])
        ours = [batch._backbone._input, *record.leaves]
        assert {id(leaf) for leaf in ends} == {id(leaf) for leaf in ours}

    def test_memory_is_freed_with_the_linearization(self, trained):
        adapter = Detectron2Adapter(trained.model)
        linearization = cut(adapter, image_with(adapter, images(trained), 1))
        next(linearization.gradients([0]))
        batch = linearization._batch
        kept = [weakref.ref(batch._backbone._input), weakref.ref(batch._head.records[0].leaves[0])]
        del batch
        gc.disable()  # no cycle that would wait for the collector
        try:
            del linearization
            assert [one() for one in kept] == [None, None]
        finally:
            gc.enable()


class TestWeights:
    @pytest.fixture
    def adapter(self):
        torch.manual_seed(0)
        overrides = {"MODEL.RETINANET.SCORE_THRESH_TEST": 0.0, "TEST.DETECTIONS_PER_IMAGE": 2}
        return Detectron2Adapter(build_detector(load_config("retinanet_tiny", overrides)).double().eval())

    @pytest.fixture
    def image(self):
        return torch.rand(3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 255

    @pytest.mark.parametrize(
        "change",
        [
            lambda model: model.head.cls_score.weight.mul_(1.1),
            lambda model: model.backbone.bottom_up.stem.conv1.norm.running_var.mul_(1.1),
            lambda model: setattr(model.head.bbox_pred.bias, "data", model.head.bbox_pred.bias.data.clone()),
            lambda model: setattr(model.head, "cls_score", copy.deepcopy(model.head.cls_score)),
        ],
        ids=["parameter", "buffer", "data", "layer"],
    )
    def test_changed_before_the_gradients(self, adapter, image, change):
        linearization = adapter.linearize(image, engine="cut")
        gradients = linearization.gradients([0, 1])
        with torch.no_grad():
            change(adapter.model)
        with pytest.raises(RuntimeError, match=r"Expected the detector's weights to be those of linearize\(\)"):
            next(gradients)

    def test_training_and_new_layers_are_seen(self, adapter, image):
        before = assert_as_plain_autograd(adapter, image)
        with torch.no_grad():
            for parameter in adapter.model.parameters():
                parameter.mul_(1.05)
        trained = assert_as_plain_autograd(adapter, image)
        wider = torch.nn.Conv2d(64, 64, 5, padding=2).double()
        adapter.model.head.bbox_subnet[0] = wider
        replaced = assert_as_plain_autograd(adapter, image)
        for one, other in combinations((before, trained, replaced), 2):
            assert not torch.equal(one[0], other[0])


class TestFallback:
    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        overrides = {"MODEL.RETINANET.SCORE_THRESH_TEST": 0.0, "TEST.DETECTIONS_PER_IMAGE": 3}
        return build_detector(load_config("retinanet_tiny", overrides)).double().eval()

    image = torch.rand(3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 255

    def test_an_input_prepared_in_another_way(self, model):
        model.backbone.register_forward_pre_hook(lambda module, args: (args[0] * 0.9,))
        with pytest.warns(RuntimeWarning, match=r"the backbone's input is not \(pixels - pixel_mean\) / pixel_std"):
            assert_as_plain_autograd(Detectron2Adapter(model), self.image)

    def test_features_that_are_not_the_backbones(self, model):
        model.head.register_forward_pre_hook(lambda module, args: ([2 * feature for feature in args[0]],))
        with pytest.warns(RuntimeWarning, match="the head is not given the backbone's features"):
            assert_as_plain_autograd(Detectron2Adapter(model), self.image)

    def test_a_head_that_is_not_local_after_all(self, model):
        def with_context(module, args, output):
            return output * (1 + output.mean())

        model.head.cls_subnet[1].register_forward_hook(with_context)
        with pytest.warns(RuntimeWarning, match="model.head, run again on a part of the features, differs by"):
            assert_as_plain_autograd(Detectron2Adapter(model), self.image)

    def test_a_backbone_that_is_called_twice(self, model):
        inner = model.anchor_generator.register_forward_hook(
            lambda module, args, output: model.backbone(torch.zeros(1, 3, 64, 64, dtype=torch.float64)) and None
        )
        with pytest.warns(RuntimeWarning, match="the backbone was called 2 times"):
            assert_as_plain_autograd(Detectron2Adapter(model), self.image)
        inner.remove()

    def test_nothing_detected(self, model):
        model.test_score_thresh = 1.0
        linearization = cut(Detectron2Adapter(model), self.image)
        assert len(linearization.detections) == 0
        assert list(linearization.gradients([])) == []

    def test_a_number_that_depends_on_nothing(self, model):
        torch.nn.init.constant_(model.head.cls_score.bias, 1e3)  # every score is 1, exactly
        (local,) = cut(Detectron2Adapter(model), self.image).gradients([0])
        values = local.values
        assert not values[4].any()
        assert values[:4].any()
