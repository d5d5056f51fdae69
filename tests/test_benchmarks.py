"""The benchmarks run, and measure networks that do what a trained detector does. No timing is asserted."""

import json
import math

import pytest
import torch
from helpers.scripts import EXAMPLES, same_threads, scripts_in

from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.saliency.gradients import linearize
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.noise import image_generator, noisy_images


@pytest.fixture
def benchmarks(monkeypatch):
    """Import a file of the benchmarks as a script there would."""
    with scripts_in(EXAMPLES / "benchmarks", monkeypatch) as script:
        yield script


@pytest.fixture
def one_thread():
    with same_threads():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_R_50_FPN", "faster_rcnn_R_50_FPN"])
def test_planted_objects_are_detected_and_withstand_noise(name, benchmarks):
    planted = benchmarks("planted").plant(name, 320, 320, count=2, size=96)
    detector = Detectron2Adapter(planted.model)
    assert not planted.model.training
    assert not any(parameter.requires_grad for parameter in planted.model.parameters())
    (noisy,) = noisy_images(planted.image, 1, 0.05, image_generator(0, 12345))
    linearization = linearize(detector, noisy)
    with torch.no_grad():
        (clean,) = detector.detect([planted.image])
    boxes, labels = clean.boxes[planted.indices], clean.labels[planted.indices]
    found = linearization.detections
    _, overlap = match_one_to_one(planted.boxes, labels, boxes, labels, 0.7)
    matches, _ = match_one_to_one(boxes, labels, found.boxes, found.labels, 0.7)
    assert len(set(planted.indices)) == 2
    assert (clean.scores[planted.indices] > 0.5).all()
    assert (clean.scores[planted.indices] < 0.99).all()
    assert (clean.scores > 0.5).sum() == 2
    assert overlap.isfinite().all()
    assert (matches >= 0).all()
    (gradient,) = linearization.gradients([int(matches[0])])
    assert (gradient.values.abs().amax((1, 2, 3)) > 0).all()


def test_what_cannot_be_planted_is_refused(benchmarks):
    with pytest.raises(ValueError, match="Expected 5 objects of 256 px to fit an image of 320x320, but at most 1 do"):
        benchmarks("planted").plant("retinanet_R_50_FPN", 320, 320, count=5, size=256)


@pytest.mark.parametrize("count", [1, 5, 10])
def test_objects_lie_inside_the_image_and_do_not_overlap(count, benchmarks):
    boxes = benchmarks("scene").place_boxes(480, 640, count, 96, torch.Generator().manual_seed(0))
    assert boxes.shape == (count, 4)
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= 640).all()
    assert (boxes[:, 3] <= 480).all()
    for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        for a0, b0, a1, b1 in boxes[:index].tolist():
            assert min(x1, a1) <= max(x0, a0) or min(y1, b1) <= max(y0, b0)


def test_ridge_without_penalty_is_least_squares(benchmarks):
    generator = torch.Generator().manual_seed(0)
    rows, truth = torch.randn(50, 3, generator=generator), torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    coefficients, constants = benchmarks("planting").ridge(
        rows, rows @ truth.T + torch.tensor([4.0, -1.0]), torch.rand(50, generator=generator) + 0.1, 0.0
    )
    torch.testing.assert_close(coefficients, truth, atol=1e-4, rtol=0)
    torch.testing.assert_close(constants, torch.tensor([4.0, -1.0]), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_saliency_benchmark_prints_a_table_and_writes_finite_numbers(benchmarks, one_thread, tmp_path, capsys):
    output = tmp_path / "numbers.json"
    case = ["--detectors", "retinanet_R_50_FPN", "--sizes", "128x160", "--objects", "2", "--object-size", "32"]
    short = ["--rounds", "1", "--reference-outputs", "2", "--no-memory", "--further"]
    benchmarks("saliency").main([*case, *short, "--output", str(output)])
    printed = capsys.readouterr().out
    assert "SCALED" in printed
    assert "EXTRAPOLATED" in printed
    ((result),) = json.loads(output.read_text())["cases"]
    variants = result["variants"]
    assert set(variants) == set(benchmarks("variants").VARIANTS)
    for name, variant in variants.items():
        if "bf16" in name and torch.backends.cpu.get_cpu_capability() != "AVX512":
            assert "no instructions for bfloat16" in variant["skipped"]  # minutes without them
            continue
        assert "skipped" not in variant, name
        assert [math.isfinite(number) and number > 0 for number in variant["seconds"]] == [True], name
        assert variant["gflop"] > 0, name
        assert all(math.isfinite(part) for shares in variant["shares"] for part in shares), name
    assert variants["cut"]["max_relative_difference"] < 1e-3
    assert variants["windowed"]["max_relative_difference"] < 0.1
    assert all(math.isfinite(share) for share in result["further"])


def test_what_does_not_fit_is_said(benchmarks, one_thread, capsys):
    (result,) = benchmarks("saliency").main(["--sizes", "128x128", "--objects", "9", "--object-size", "96"])
    assert "at most 1 do" in result["skipped"]
    assert "do not fit" in capsys.readouterr().out


@pytest.mark.slow
def test_the_gate_on_real_detectors_prints_what_it_said_of_each(benchmarks, tmp_path, capsys):
    few = ["--images=16", "--val-images=30"]
    results = benchmarks("gate_real").main(["--repetitions=1", "--clean=2", "--steps=1", *few, f"--output={tmp_path}"])
    assert {case: len(of_case) for case, of_case in results.items()} == {"same": 1, "shortcut": 1, "retrained": 1}
    printed = capsys.readouterr().out
    assert "retrained: 1 not comparable" in printed  # after one step nothing is detected
    assert len(list((tmp_path / "1-steps").glob("*.ckpt"))) == 3
