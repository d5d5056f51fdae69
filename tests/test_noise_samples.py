"""examples/benchmarks/noise_samples.py: noise that is what it is said to be, and a table of a trained detector."""

import numpy as np
import pytest
import torch
from helpers.checkpoints import save_lightning
from helpers.runs import module_like
from helpers.scripts import EXAMPLES, same_threads, scripts_in

from odsg_lightning.cli import main

SHAPE = (3, 17, 24)


@pytest.fixture
def script(monkeypatch):
    """Import a file of the benchmarks as a script there would."""
    with same_threads(), scripts_in(EXAMPLES / "benchmarks", monkeypatch) as imported:
        yield imported


@pytest.fixture
def drawn(script):
    """Draw a design by its name."""
    return lambda name, n, seed=0: (
        script("noise_designs").DESIGNS[name](n, SHAPE, torch.Generator().manual_seed(seed)).double()
    )


@pytest.mark.parametrize("name", ["independent", "antithetic", "orthogonal", "centred", "latin", "sobol"])
def test_each_sample_is_gaussian_whatever_the_others_are(name, drawn):
    for number in (0, 4):
        some = torch.stack([drawn(name, 5, seed)[number] for seed in range(100)]).flatten()
        for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
            spread = {1: 1, 2: 2, 3: 15, 4: 96}[power] ** 0.5  # sd of a power of a normal number
            assert float((some**power).mean()) == pytest.approx(moment, abs=5 * spread / len(some) ** 0.5), power


def test_samples_depend_on_one_another_as_they_should(drawn):
    pairs = drawn("antithetic", 5)
    assert torch.equal(pairs[0], -pairs[1])
    products = drawn("orthogonal", 5).flatten(1) @ drawn("orthogonal", 5).flatten(1).T
    assert (products - products.diag().diag()).abs().max() < 1e-3 * products.diag().min()
    assert products.diag().std() > 5  # lengths of Gaussian vectors, which differ
    assert drawn("centred", 5).sum(dim=0).abs().max() < 1e-5
    strata = torch.special.ndtr(drawn("latin", 5)).mul(5).floor().sort(dim=0).values
    assert torch.equal(strata, torch.arange(5.0, dtype=torch.float64)[:, None, None, None].expand_as(strata))
    means = torch.nn.functional.avg_pool2d(drawn("sobol", 8)[..., :16, :], 8).flatten(1) * 8
    halves = (means > 0).sum(dim=0)
    assert torch.equal(halves, torch.full_like(halves, 4))  # eight points of Sobol's sequence halve every axis


@pytest.mark.slow
def test_the_table_of_a_trained_detector(script, trained_retinanet, shapes_folder, tmp_path, capsys):
    checkpoint = save_lightning(module_like(trained_retinanet.model), tmp_path / "model.ckpt")
    data = ["--annotations", shapes_folder / "annotations" / "val.json", "--images", shapes_folder / "val"]
    chosen = ["audit-set", *data, "-o", tmp_path / "set.json", "--count", 1, "--min-size", 128]
    assert main([*map(str, chosen)]) == 0
    asked = [checkpoint, "--audit-set", tmp_path / "set.json", "--samples", 2, 6, "--reference", 12, "--repetitions", 1]
    table = script("noise_samples").main([*map(str, asked)])
    assert table.shape[1:] == (8, 2, 1, 5, 5)
    distances = table[..., 0]
    assert np.isfinite(distances).any(axis=(0, 3, 4)).all()
    assert np.nanmin(distances) > 0
    assert np.nanmean(distances[:, 0, 0]) > np.nanmean(distances[:, 0, 1])  # more samples lie closer
    assert "1 - mask IoU, mean" in capsys.readouterr().out
