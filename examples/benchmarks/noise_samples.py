r"""How close a few noise samples come to the map of many, by how they are drawn.

    odsg audit-set --annotations val.json --images val -o audit_set.json
    python examples/benchmarks/noise_samples.py a.ckpt b.ckpt --audit-set audit_set.json

The maps of `--samples` samples against those of `--reference` others, of every detected object, for each of the five
numbers. Beside the designs of `noise_designs.py`, at the same cost:

- *clean*: the plain gradient counts as one of the samples: biased, as its expectation is another one;
- *control*: independent samples less what linear regression finds in them of statistics whose mean is known to be zero:
  the clean gradient times the noise, and the noise, blurred or squared, where the plain gradient is large.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from measuring import machine, prepare
from noise_designs import DESIGNS, NESTED
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter
from torch import Tensor

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.audit.loop import detected
from odsg_lightning.audit.pairing import pair_detections
from odsg_lightning.checkpoints.opened import classes_of, load_any
from odsg_lightning.data.audit_set_files import load_sample, unchanged_dataset
from odsg_lightning.demo.recipe import no_foreign_warnings
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.metrics.edges import object_enrichment, position
from odsg_lightning.metrics.iof import object_iof
from odsg_lightning.names import PARAMETERS
from odsg_lightning.records.audit_set import read_audit_set
from odsg_lightning.saliency.early_stop import correlation_distance
from odsg_lightning.saliency.gradients import gradient_looks, linearize
from odsg_lightning.saliency.masks import above_share, smoothed
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.noise import PIXEL_RANGE, image_generator
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.types import AuditSample, Detections, LocalGradient, LocalMaps

MEASURES = ("1 - correlation", "1 - mask IoU", "iof/near", "enrichment/edge", "position")
"""Of the last three: the absolute difference from the reference map's value."""
FROM_INDEPENDENT = ("clean", "control")
CONFIG = AuditConfig()
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """The audited objects of one image that are detected, and what detects them."""

    detector: Detector
    sample: AuditSample
    reference: Detections
    indices: list[int]
    masks: Tensor


def main(args: Sequence[str] | None = None) -> Floats:
    """Print the tables; return ``[objects, compared, samples, repetitions, 5, measures]``."""
    options = _parse(args)
    prepare(1, "cpu")
    values: list[Floats] = []
    clusters: list[int] = []
    with no_foreign_warnings():
        for number, image in enumerate(_images(options.checkpoints, options.audit_set, options.max_objects)):
            of_image = _measured(image, options)
            values += of_image
            clusters += [number] * len(of_image)
            print(f"image {number + 1}: {len(of_image)} objects", flush=True)
    if not values:
        raise SystemExit("Expected detectors that find objects of the audit set, but none is detected.")
    table = np.stack(values)
    if options.save is not None:
        np.savez(options.save, values=table, clusters=clusters)
    _print(table, np.array(clusters), options)
    return table


def _compared(options: argparse.Namespace) -> tuple[str, ...]:
    return (*options.designs, *FROM_INDEPENDENT)


def _images(checkpoints: Sequence[Path], audit_set: Path, most: int | None) -> Iterator[Paired]:
    chosen = read_audit_set(audit_set)
    coco = unchanged_dataset(chosen)
    for checkpoint in checkpoints:
        loaded = load_any(checkpoint, None, None, None, len(chosen.categories), trust=False)
        classes = torch.tensor(classes_of(loaded, chosen, coco, checkpoint))
        with isolated(loaded.module):
            detector = resolve_adapter(loaded.module)
            for image in coco.images:
                sample = load_sample(chosen, coco, image)
                sample = replace(sample, labels=classes[sample.labels])
                found, _ = detected(detector, sample.image, sample.image_id, CONFIG)
                pairs, _ = pair_detections(sample, found, CONFIG)
                rows = (pairs >= 0).nonzero().flatten()[:most]
                yield Paired(detector, sample, found, pairs[rows].tolist(), sample.masks[rows])


def _measured(image: Paired, options: argparse.Namespace) -> list[Floats]:
    """Return, of each object, ``[compared, samples, repetitions, 5, measures]``."""
    if not image.indices:
        return []
    samples, repetitions, compared = options.samples, options.repetitions, _compared(options)
    truth = _reference(image, options.reference)
    told = [_values(total, mask) for total, mask in zip(truth, image.masks, strict=True)]
    clean = _clean(image)
    table = np.full((len(truth), len(compared), len(samples), repetitions, len(PARAMETERS), len(MEASURES)), np.nan)

    def compare(name: str, column: int, repetition: int, objects: list[Tensor]) -> None:
        for row, mean in enumerate(objects):
            values = _values(mean, image.masks[row])
            table[row, compared.index(name), column, repetition] = _distances(mean, values, truth[row], told[row])

    for repetition in range(repetitions):
        generator = image_generator(2 + repetition, image.sample.image_id)
        for name in options.designs:
            most = _drawn(image, name, samples[-1], generator) if name in NESTED else None
            for column, n in enumerate(samples):
                noise, maps = most or _drawn(image, name, n, generator)
                few = [of_object[:n] for of_object in maps]
                compare(name, column, repetition, [of_object.nanmean(dim=0) for of_object in few])
                if name == "independent":
                    zero = [torch.cat([c.abs().amax(dim=1)[None], m[: n - 1]]) for c, m in zip(clean, few, strict=True)]
                    compare("clean", column, repetition, [of_object.nanmean(dim=0) for of_object in zero])
                    pairs = zip(clean, few, strict=True)
                    compare("control", column, repetition, [_controlled(c, m, noise[:n]) for c, m in pairs])
    return list(table)


def _drawn(image: Paired, name: str, n: int, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
    """Return noise ``[n, 3, H, W]`` and, of each object, its maps ``[n, 5, H, W]``, NaN where it is not found again."""
    noise = DESIGNS[name](n, tuple(image.sample.image.shape), generator)
    looks = gradient_looks(image.detector, (image.sample.image + CONFIG.sigma * PIXEL_RANGE * one for one in noise))
    found = [[] for _ in image.indices]
    for seen in looks:
        tracks = zip(*(_matches(image, there) for there in seen.detections), strict=True)
        for track, of_object in zip(tracks, found, strict=True):
            maps = iter([])
            if max(track) >= 0:
                (of_images,) = seen.maps([track])
                maps = (of_images._replace(values=values) for values in of_images.values)
            for index in track:
                whole = torch.full((len(PARAMETERS), *image.sample.image.shape[1:]), torch.nan)
                of_object.append(whole if index < 0 else _placed(torch.zeros_like(whole), next(maps)))
    return noise, [torch.stack(of_object) for of_object in found]


def _matches(image: Paired, there: Detections) -> list[int]:
    reference = image.reference
    found, _ = match_one_to_one(reference.boxes, reference.labels, there.boxes, there.labels, CONFIG.match_iou)
    return [int(found[index]) for index in image.indices]


def _placed(whole: Tensor, part: LocalMaps | LocalGradient) -> Tensor:
    height, width = part.values.shape[-2:]
    whole[..., part.top : part.top + height, part.left : part.left + width] = part.values
    return whole


def _reference(image: Paired, count: int) -> list[Tensor]:
    """Return each object's mean map ``[5, H, W]`` of so many samples that are used for nothing else."""
    generator = image_generator(1, image.sample.image_id)
    sums = [torch.zeros(len(PARAMETERS), *image.sample.image.shape[1:]) for _ in image.indices]
    for _ in range(count):
        _, maps = _drawn(image, "independent", 1, generator)
        for total, one in zip(sums, maps, strict=True):
            total += one[0].nan_to_num()
    return sums


def _clean(image: Paired) -> list[Tensor]:
    """Return the gradients ``[5, 3, H, W]`` of each object's numbers at the image without noise."""
    shape = (len(PARAMETERS), *image.sample.image.shape)
    gradients = linearize(image.detector, image.sample.image).gradients(image.indices)
    return [_placed(torch.zeros(shape), gradient) for gradient in gradients]


def _controlled(clean: Tensor, maps: Tensor, noise: Tensor) -> Tensor:
    """Return the mean of maps ``[n, 5, H, W]`` less what is linear in statistics with mean zero, by least squares.

    One coefficient for each statistic and number, common to all pixels: there are too few samples for more.
    """
    seen = ~maps.isnan().any(dim=(1, 2, 3))
    maps, noise, size = maps[seen], noise[seen], clean.abs().amax(dim=1)
    along = (clean * noise[:, None]).sum(dim=2)
    statistics = [along, _blurred(along, 2), size * _blurred(noise.mean(dim=1), 1)[:, None]]
    statistics.append(size * (noise.square().mean(dim=1) - 1)[:, None])
    known = torch.stack(statistics, dim=2).double()  # [n, 5, statistics, H, W]
    deviations = (known - known.mean(dim=0)).movedim(2, 0).flatten(3)
    squares = torch.einsum("anpx,bnpx->pab", deviations, deviations)
    products = torch.einsum("anpx,npx->pa", deviations, (maps - maps.mean(dim=0)).flatten(2).double())
    slopes = torch.linalg.pinv(squares, hermitian=True) @ products[..., None]
    return (maps.mean(dim=0) - (slopes[..., None] * known.mean(dim=0)).sum(dim=1)).float()


def _blurred(noise: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(noise.numpy(), sigma, axes=(-2, -1)))


def _values(mean: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the foreground ``[5, H, W]`` of an object's maps, and ``[5, 3]`` the values of the last three measures."""
    smooth = smoothed(mean.clamp(min=0), CONFIG.blur_sigma)
    foreground, core = above_share(smooth, CONFIG.threshold), above_share(smooth, CONFIG.near_threshold)
    near = object_iof(foreground, core, mask, CONFIG.near_margin)[-len(PARAMETERS) :]
    edge = torch.cat([object_enrichment(foreground, mask)[:, 0], torch.full((1,), torch.nan)])
    where = torch.cat([position(mean.clamp(min=0)[None], mask[None])[0], torch.full((1,), torch.nan)])
    return foreground, torch.stack([near, edge, where], dim=1)


def _distances(mean: Tensor, values: tuple[Tensor, Tensor], truth: Tensor, told: tuple[Tensor, Tensor]) -> Floats:
    """Return ``[5, measures]``: how far maps lie from the reference, by :data:`MEASURES`."""
    union = (values[0] | told[0]).sum(dim=(1, 2))
    overlap = (values[0] & told[0]).sum(dim=(1, 2)) / union
    first = torch.stack([correlation_distance(mean.double(), truth.double()), 1 - overlap], dim=1)
    return torch.cat([first, (values[1] - told[1]).abs()], dim=1).double().numpy()


def _print(table: Floats, clusters: NDArray[np.int_], options: argparse.Namespace) -> None:
    title = f"{len(table)} objects of {len(options.checkpoints)} detectors, {options.repetitions} seeds, reference of "
    title += f"{options.reference} samples; {machine('cpu')}"
    console = Console(width=140)
    console.print(title)
    worth = Table(title="As many independent samples as have the same 1 - correlation [95 %, images resampled]")
    mean = {measure: Table(title=f"{measure}, mean") for measure in MEASURES}
    for each in (worth, *mean.values()):
        each.add_column("samples")
        for n in options.samples:
            each.add_column(str(n), justify="right")
    for at, name in enumerate(_compared(options)):
        worth.add_row(name, *(_cell(table, clusters, at, c, options) for c in range(len(options.samples))))
        for index, of_measure in enumerate(mean.values()):
            of_design = np.nanmean(table[:, at, ..., index], axis=(0, 2, 3))
            of_measure.add_row(name, *(f"{value:.4f}" for value in of_design))
    by_parameter = Table(title=f"The same by parameter, {options.samples[-1]} samples")
    by_parameter.add_column("samples")
    for parameter in PARAMETERS:
        by_parameter.add_column(parameter, justify="right")
    for at, name in enumerate(_compared(options)):
        parts = (table[..., number : number + 1, :] for number in range(len(PARAMETERS)))
        cells = (_cell(part, clusters, at, len(options.samples) - 1, options) for part in parts)
        by_parameter.add_row(name, *cells)
    for each in (worth, by_parameter, *mean.values()):
        console.print(each)


def _cell(table: Floats, clusters: NDArray[np.int_], at: int, column: int, options: argparse.Namespace) -> str:
    """Return the worth of a design, and its interval."""
    n, of_objects = options.samples[column], np.nanmean(table[:, :, column, :, :, 0], axis=(2, 3))
    # An object without a defined map has no value.
    sums = np.stack([np.nansum(of_objects[clusters == c][:, [0, at]], axis=0) for c in np.unique(clusters)])
    drawn = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
    independent, other = np.concatenate([sums.sum(axis=0)[None], sums[drawn].sum(axis=1)]).T
    own = independent * n / (n + options.reference)  # what the reference's own noise adds to either
    worth = n * (independent - own) / (other - own)
    low, high = np.quantile(worth[1:], [0.025, 0.975])
    return f"{worth[0]:.1f} [{low:.1f}, {high:.1f}]"


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="Lightning .ckpt of trained detectors")
    parser.add_argument("--audit-set", type=Path, required=True)
    parser.add_argument("--samples", type=int, nargs="+", default=[3, 5, 8, 10, 20], help="ascending")
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS), help="and independent")
    parser.add_argument("--repetitions", type=int, default=3, help="seeds of each design")
    parser.add_argument("--reference", type=int, default=200, help="other samples that they are compared with")
    parser.add_argument("--max-objects", type=int, help="of each image")
    parser.add_argument("--save", type=Path, help="all values, .npz")
    options = parser.parse_args(args)
    options.designs = list(dict.fromkeys(["independent", *options.designs]))
    return options


if __name__ == "__main__":
    main()
