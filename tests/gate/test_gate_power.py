"""The gate's false alarms and power, in a short run of the benchmark that measures them."""

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gate_power

    yield gate_power
    sys.modules.pop("gate_power", None)
    sys.modules.pop("measuring", None)


def test_images_are_resampled_because_objects_raise_false_alarms(benchmark, capsys):
    numbers = benchmark.main(["--images", "16", "--simulations", "400", "--repetitions", "20", "--collapses", "200"])
    rates = numbers["power"][16]
    at_zero, at_margin, at_005, at_01, misses = rates["images"]
    assert at_zero < 0.01
    assert at_margin < 0.08  # 4.0% in 1000 simulations
    assert 0.7 < at_005 < 0.9
    assert at_01 > 0.99
    assert 0.03 < misses < 0.13
    assert rates["objects"][1] > 1.5 * at_margin
    assert rates["objects"][4] > 0.15
    assert numbers["passed"] >= 0.95
    collapses = numbers["collapses"][16]
    by_collapse, by_mean, either, undecided = collapses["honest"]
    assert (by_collapse, by_mean, either) == (0, 0, 0)
    assert undecided < 0.02
    assert collapses["astray"][0] < 0.01
    by_collapse, by_mean, either, undecided = collapses["25 %"]
    assert either >= by_collapse > 0.5
    assert either + undecided > 0.95
    printed = capsys.readouterr().out
    assert "objects, wrong" in printed
    assert "20 of 20 pass" in printed


def test_two_audits_of_a_simulated_world_differ_by_noise_only(benchmark):
    one, two = (benchmark.simulated_record(16, 3, 0, seed, 0.015) for seed in (1, 2))
    assert [row.key for row in one.objects] == [row.key for row in two.objects]
    assert [row.missed for row in one.objects] == [row.missed for row in two.objects]
    differences = [a.object_iof - b.object_iof for a, b in zip(one.objects, two.objects, strict=True) if not a.missed]
    assert 0 < max(map(abs, differences)) < 0.1
