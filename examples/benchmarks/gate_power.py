"""How often `odsg gate` raises a false alarm, and how often it sees a real drop. Simulated: no detector runs.

    python examples/benchmarks/gate_power.py          # the tables, about two minutes
    python examples/benchmarks/gate_power.py --size   # time and memory of `odsg gate` on 10,000 objects

The changes of one image's objects are correlated, as they are between two trainings of a detector: an effect of the
image (sd 0.036) and one of the object (sd 0.04), one to five objects an image. Resampling objects as if they were
independent is shown beside it, as the mistake that it is.

A second table is of a collapse on a part of the images: of each image a coin decides whether its `iof/near` falls to
nearly nothing. Honest are changes as above; "astray" has one object in thirty land anywhere between 0 and 1, too.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from measuring import machine
from rich.console import Console
from rich.table import Table

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.gate import GateConfig, compare
from odsg_lightning.gate.checks import Check
from odsg_lightning.gate.collapse import collapse_result
from odsg_lightning.gate.judging import judged
from odsg_lightning.gate.resampling import resample_images
from odsg_lightning.gate.values import ComparedValues
from odsg_lightning.names import IOF_NAMES, PARAMETERS
from odsg_lightning.records.record import AuditRecord, ObjectRow, write_record

MARGIN = 0.02
NEAR = 0.05
"""Margin of a mean of ``iof/near`` that ``collapsed`` is compared with."""
DROPS = (0.0, MARGIN, 0.05, 0.1)
IMAGE_SD, OBJECT_SD = 0.036, 0.04
METHODS = {"images": "images", "objects": "objects, wrong"}
COLLAPSES = {"honest": 0.0, "astray": 0.0, "10 %": 0.1, "15 %": 0.15, "25 %": 0.25}
_SHARES = {"object": 1.0, "edge": 0.5, "middle": 0.35, "opposite": 0.15, "near": 1.5}


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """Print the tables; return the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[8, 16, 20, 32, 64], help="sizes of the audit set")
    parser.add_argument("--simulations", type=int, default=1000, help="of each row of the table of power")
    parser.add_argument(
        "--collapses", type=int, default=1000, help="simulations of each cell of the table of collapses"
    )
    parser.add_argument("--repetitions", type=int, default=200, help="of two audits of one checkpoint")
    parser.add_argument("--seed-noise", type=float, default=0.015, help="sd of an object's value between audit seeds")
    parser.add_argument("--size", action="store_true", help="measure odsg gate on 10,000 objects instead")
    options = parser.parse_args(arguments)
    print(machine("cpu"))
    if options.size:
        return _size()
    power = {images: _fail_rates(images, options.simulations) for images in options.images}
    _print_power(power, options.simulations)
    collapses = {images: _collapse_rates(images, options.collapses) for images in options.images}
    _print_collapses(collapses, options.collapses)
    passed = sum(_same_checkpoint_passes(seed, options.seed_noise) for seed in range(options.repetitions))
    print(
        f"Two audits of one checkpoint, 16 images, seed noise {options.seed_noise:g} per object, default gate: "
        f"{passed} of {options.repetitions} pass ({passed / options.repetitions:.1%})."
    )
    return {"power": power, "collapses": collapses, "passed": passed / options.repetitions}


def _fail_rates(images: int, simulations: int) -> dict[str, list[float]]:
    """Return the share of simulations that fail at each drop, and last that of intervals without the true change."""
    config, generator = GateConfig(resamples=999), np.random.default_rng(images)
    rates = {}
    for method in METHODS:
        bounds = []
        for seed in range(simulations):
            image = np.repeat(np.arange(images), generator.integers(1, 6, images))
            change = generator.normal(0, IMAGE_SD, images)[image] + generator.normal(0, OBJECT_SD, len(image))
            unit = image if method == "images" else np.arange(len(image))
            sums, counts = np.bincount(unit, change), np.bincount(unit).astype(float)
            found = resample_images(sums[:, None], counts[:, None], config.resamples, seed, config.tail)
            bounds.append(found.interval(0))
        lower, upper = np.array(bounds).T
        # A drop common to all objects only shifts the interval.
        fails = [float((upper - drop < -MARGIN).mean()) for drop in DROPS]
        rates[method] = [*fails, float(((lower > 0) | (upper < 0)).mean())]
    return rates


def _print_power(power: dict[int, dict[str, list[float]]], simulations: int) -> None:
    table = Table(title=f"Share that fails at margin {MARGIN}, {simulations} simulations")
    table.add_column("images", justify="right")
    table.add_column("resampled")
    for drop in DROPS:
        nominal = "\n(nominal 2.5%)" if drop == MARGIN else ""
        table.add_column(f"drop {drop:g}{nominal}", justify="right")
    table.add_column("interval misses\n(nominal 5%)", justify="right")
    for images, rates in power.items():
        for method, values in rates.items():
            table.add_row(str(images), METHODS[method], *(f"{value:.1%}" for value in values))
    Console(width=100).print(table)


def _collapse_rates(images: int, simulations: int) -> dict[str, tuple[float, float, float, float]]:
    """Return, by kind of change, how often ``collapsed`` fails, ``iof/near``, either; or none, but one is undecided."""
    config, rates = GateConfig(resamples=999), {}
    for kind, share in COLLAPSES.items():
        generator = np.random.default_rng((images, int(100 * share), kind == "astray"))
        verdicts = []
        for _ in range(simulations):
            image = np.repeat(np.arange(images), generator.integers(1, 6, images))
            before = np.clip(generator.normal(0.95, 0.05, len(image)), 0, 1)
            change = generator.normal(0, IMAGE_SD, images)[image] + generator.normal(0, OBJECT_SD, len(image))
            after = np.clip(before + change, 0, 1)
            lost = (generator.random(images) < share)[image]
            after[lost] = generator.uniform(0, 0.3, lost.sum())
            if kind == "astray":
                lost = generator.random(len(image)) < 1 / 30
                after[lost] = generator.uniform(0, 1, lost.sum())
            values = ComparedValues({"iof/near": before}, {"iof/near": after}, {})
            everything = np.arange(len(image))
            mean = Check("iof/near", "error", everything, after - before, -NEAR, before.mean(), after.mean())
            verdicts.append((collapse_result(values, image, config).verdict, judged([mean], image, config)[0].verdict))
        fails = np.array(verdicts) == "fail"
        undecided = ~fails.any(axis=1) & (np.array(verdicts) == "inconclusive").any(axis=1)
        rates[kind] = (*fails.mean(axis=0).tolist(), float(fails.any(axis=1).mean()), float(undecided.mean()))
    return rates


def _print_collapses(collapses: dict[int, dict[str, tuple[float, ...]]], simulations: int) -> None:
    table = Table(title=f"Share that fails by collapsed / iof/near / either; inconclusive. {simulations} simulations")
    table.add_column("images", justify="right")
    for kind, share in COLLAPSES.items():
        table.add_column(f"{kind} of the\nimages collapse" if share else kind, justify="right")
    for images, rates in collapses.items():
        cells = (f"{a:.1%} / {b:.1%} / {either:.1%}; {open_:.1%}" for a, b, either, open_ in rates.values())
        table.add_row(str(images), *cells)
    Console(width=180).print(table)


def _same_checkpoint_passes(world: int, seed_noise: float) -> bool:
    pair = [simulated_record(16, 3, world, audit_seed, seed_noise) for audit_seed in (1, 2)]
    return compare(*pair, ignore_seed=True).verdict == "pass"


def simulated_record(
    images: int, per_image: int, world: int, audit_seed: int, seed_noise: float, categories: int = 4
) -> AuditRecord:
    """Return an audit of simulated objects: the same ones for the same ``world``, some of them missed.

    Args:
        images: of the audit set.
        per_image: objects of each image.
        world: seed of the objects' difficulty.
        audit_seed: of the noise.
        seed_noise: sd of an object's mean box map between audits; twice as much for a single map.
        categories: number of them.
    """
    truth, noise = np.random.default_rng(world), np.random.default_rng((world, audit_seed))
    image = np.repeat(np.arange(images), per_image)
    easy = truth.random(len(image)) > 0.1
    values = 0.6 + truth.normal(0, 0.08, images)[image] + truth.normal(0, 0.1, len(image))
    maps = np.clip(values[:, None] + noise.normal(0, 2 * seed_noise, (len(image), len(PARAMETERS))), 0, 1).round(6)
    rows = []
    for index, (at, found) in enumerate(zip(image.tolist(), maps.tolist(), strict=True)):
        row = ObjectRow(at, index, f"{at}.jpg", f"category {index % categories}")
        if easy[index]:
            by_parameter = dict(zip(PARAMETERS, found, strict=True))
            pairs = [(name, name.split("/")) for name in IOF_NAMES]
            iof = {name: min(1.0, by_parameter[parameter] * _SHARES[region]) for name, (parameter, region) in pairs}
            matched = int(noise.binomial(20, 0.95))
            row = replace(row, iou=0.8, score=0.95, box=(0, 0, 9, 9), matched_samples=matched, n_samples=20, iof=iof)
            # Hiding pixels knows no noise: two audits of one checkpoint agree.
            row = replace(row, occlusion={"sufficiency": float(index % 9 > 0), "necessity": float(index % 7 > 0)})
        rows.append(row)
    fingerprint = {"audit_set": "0" * 64, **AuditConfig(seed=audit_seed).measured}
    empty = dict.fromkeys(("checkpoint", "checkpoint_sha256", "step", "git_commit", "git_dirty"))
    return AuditRecord(fingerprint, {**empty, "versions": {}}, tuple(rows))


def _size() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / "baseline.json", Path(name) / "candidate.json"]
        baseline = simulated_record(2500, 4, 0, 1, 0.015, 80)
        accepted = ({"reason": "simulated", "date": "2026-01-01", "record_sha256": baseline.content_sha256},)
        write_record(replace(baseline, accepted=accepted), paths[0])
        write_record(simulated_record(2500, 4, 0, 2, 0.015, 80), paths[1])
        arguments = ["gate", "--ignore-seed", *map(str, paths)]
        peak = "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
        code = f"import resource; from odsg_lightning.cli import main; main({arguments}); print({peak})"
        # A process takes the peak of its parent over, and this one has loaded torch: so a shell lies between them.
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        found = subprocess.run(
            ["/bin/sh", "-c", '"$0" -c "$1"; exit', sys.executable, code], check=True, capture_output=True, text=True
        )
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        on_cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    *table, kibibytes = found.stdout.splitlines()
    print("\n".join(table))
    used = f"{seconds:.1f} s ({on_cpu:.1f} s of a processor), {int(kibibytes) / 1024:.0f} MiB at most"
    print(f"odsg gate on 10,000 objects, start-up included: {used}")
    return {"seconds": seconds, "mebibytes": int(kibibytes) / 1024}


if __name__ == "__main__":
    main()
