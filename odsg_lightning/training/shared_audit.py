"""One audit by all processes together: each audits its share of the images, and all learn what was found."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.maps_file import Key, ObjectMaps
from odsg_lightning.audit.record import ObjectRow
from odsg_lightning.audit.rows import object_maps, object_row
from odsg_lightning.detectors.protocol import Detector
from odsg_lightning.training.gather import by_all
from odsg_lightning.training.progress import audit_progress
from odsg_lightning.training.strips import audited_strip, drawn_objects, strip_tag
from odsg_lightning.types import AuditSample


@dataclass(frozen=True)
class AuditResult:
    """What an audit found, the same in every process but for the pictures.

    Attributes:
        rows: all objects, in ascending image id and annotation id.
        maps: reduced maps of the detected ones; empty if nobody needs them.
        again: maps of a few of them under another seed.
        pictures: ``[H, W, 3]`` uint8 RGB by tag, of the first process's objects.
    """

    rows: tuple[ObjectRow, ...] = ()
    maps: dict[Key, ObjectMaps] = field(default_factory=dict)
    again: dict[Key, ObjectMaps] = field(default_factory=dict)
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True)
class SharedAudit:
    """How an audit is done.

    Attributes:
        config: its settings.
        max_strips: number of pictures, at most.
        floor_images: how many images with a detected object are audited again under another seed.
        keep_maps: whether anybody needs the maps.
        keep_strips: whether every detected object gets a picture beside its maps.
    """

    config: AuditConfig
    max_strips: int
    floor_images: int
    keep_maps: bool
    keep_strips: bool

    def trial(self) -> "SharedAudit":
        """Return the plan of a trial run: one noisy pass, nothing twice, nothing kept."""
        config = replace(self.config, n_samples=1)
        return SharedAudit(config, self.max_strips, floor_images=0, keep_maps=False, keep_strips=False)

    def run(
        self,
        samples: Sequence[AuditSample],
        trainer: Trainer,
        device: torch.device,
        detector: Callable[[], AbstractContextManager[Detector]],
    ) -> AuditResult:
        """Audit. Every process must call this; either all return or all raise.

        Args:
            samples: the audit set.
            trainer: knows the processes, and shows the progress.
            device: where the images are put.
            detector: opens the detector and puts everything back when it is closed.

        Raises:
            Exception: what went wrong in this process.
            FailedElsewhereError: something went wrong in another process.
        """
        pictures: dict[str, NDArray[np.uint8]] = {}

        def found_in(share: Sequence[AuditSample], config: AuditConfig, *, first: bool) -> list[_Found]:
            drawn = drawn_objects(share, config, self.max_strips) if first and trainer.is_global_zero else set()
            results = []
            with detector() as opened, audit_progress(trainer, len(share) * config.passes) as on_pass:
                for found in audit(opened, share, config, device=device, on_pass=on_pass):
                    key, strip = (found.sample.image_id, found.annotation_id), None
                    if key in drawn or (first and self.keep_strips and not found.missed):
                        strip = audited_strip(found, config)
                    if strip is not None and key in drawn:
                        pictures[strip_tag(found)] = strip
                    kept = strip if self.keep_strips else None
                    row = object_row(found, config) if first else None
                    results.append(_Found(key, row, object_maps(found, config, kept) if self.keep_maps else None))
            return results

        def together(chosen: Sequence[AuditSample], config: AuditConfig, *, first: bool) -> list[_Found]:
            share = chosen[trainer.global_rank :: trainer.world_size]
            found = by_all(trainer.strategy, lambda: found_in(share, config, first=first))
            return sorted(found, key=lambda one: one.key)

        found = together(samples, self.config, first=True)
        rows = tuple(one.row for one in found if one.row is not None)
        seen = {row.image_id for row in rows if not row.missed}
        twice = [sample for sample in samples if sample.image_id in seen][: self.floor_images]
        reseeded = replace(self.config, seed=self.config.seed + 1)
        again = together(twice, reseeded, first=False) if twice else []
        return AuditResult(rows, _maps(found), _maps(again), pictures)


@dataclass(frozen=True)
class _Found:
    key: Key
    row: ObjectRow | None  # of the first audit alone: nobody reads what another seed measures
    maps: ObjectMaps | None


def _maps(found: list[_Found]) -> dict[Key, ObjectMaps]:
    return {one.key: one.maps for one in found if one.maps is not None}
