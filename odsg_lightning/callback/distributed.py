"""One audit by all processes together: each audits its share of the images, and all learn what came of it."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from torch import Tensor

from odsg_lightning.audit.choice import chosen_objects, listed_objects
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.explainer import explainer_of
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.measure import object_maps, object_row
from odsg_lightning.audit.pairing import PairingCounts, why_few_are_paired
from odsg_lightning.audit.strips import audited_strip, drawn_objects, strip_tag
from odsg_lightning.audit.trim_check import trims
from odsg_lightning.callback.failure import run_on_all_ranks
from odsg_lightning.callback.packages import class_for
from odsg_lightning.callback.progress import audit_progress
from odsg_lightning.metrics.iof import IntersectionOverForeground
from odsg_lightning.names import IOF_NAMES
from odsg_lightning.records.maps_file import Key, ObjectMaps
from odsg_lightning.records.means import audit_counts, evidence_means, trim_extremes
from odsg_lightning.records.record import ObjectRow
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.types import AuditSample


@dataclass(frozen=True)
class AuditResult:
    """What came of an audit, the same in every process but for the pictures.

    Attributes:
        rows: all objects, in ascending image id and annotation id.
        iof: ``[N, 22]`` float32, the values of the explained ones in the same order: see
            :class:`odsg_lightning.audit.measure.ExplainedObject`.
        maps: reduced maps of the explained ones; empty if nobody needs them.
        reseeded: maps of a few of them under another seed.
        pictures: ``[H, W, 3]`` uint8 RGB by tag, of the first process's objects.
        why_few: why nothing or little was paired; None if much was.
    """

    rows: tuple[ObjectRow, ...] = ()
    iof: Tensor = field(default_factory=lambda: torch.zeros(0, len(IOF_NAMES)))
    maps: dict[Key, ObjectMaps] = field(default_factory=dict)
    reseeded: dict[Key, ObjectMaps] = field(default_factory=dict)
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    why_few: str | None = None


def audit_scalars(result: AuditResult, metric: IntersectionOverForeground, config: AuditConfig) -> dict[str, float]:
    """Return what an audit measured by the name under which it is logged, NaN where there is no value.

    Args:
        result: of the audit.
        metric: takes its IOF.
        config: its settings.
    """
    metric.reset()
    metric.update(values=result.iof)
    iof = {f"iof/{name}": float(value) for name, value in metric.compute().items()}
    means = evidence_means(result.rows) | audit_counts(result.rows)
    if not config.occlusion:
        means = {name: value for name, value in means.items() if not name.startswith("occlusion/")}
    if trims(config):
        means |= trim_extremes(result.rows)
    return iof | {name: math.nan if value is None else value for name, value in means.items()}


@dataclass(frozen=True)
class DistributedAudit:
    """How an audit is done.

    Attributes:
        config: its settings.
        max_strips: number of pictures, at most.
        reseeded_images: how many images with an explained object are audited again under another seed.
        keep_maps: whether anybody needs the maps.
        keep_strips: whether every explained object gets a picture beside its maps.
    """

    config: AuditConfig
    max_strips: int
    reseeded_images: int
    keep_maps: bool
    keep_strips: bool

    def for_fast_dev_run(self) -> "DistributedAudit":
        """Return the same audit with one noise sample, nothing twice and nothing kept."""
        config = replace(self.config, n_samples=1)
        return DistributedAudit(config, self.max_strips, reseeded_images=0, keep_maps=False, keep_strips=False)

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
        objects = chosen_objects(listed_objects(samples), self.config.max_objects_per_image)

        def audit_share(share: Sequence[AuditSample], config: AuditConfig, *, first: bool) -> list[_Kept]:
            drawn = drawn_objects(share, objects, self.max_strips) if first and trainer.is_global_zero else set()
            kept = []
            with detector() as opened, audit_progress(trainer, len(share) * explainer_of(config).samples) as advance:

                def on_sample() -> None:
                    advance()
                    # Lightning looks between batches only; among several processes none may leave alone.
                    if trainer.received_sigterm and trainer.world_size == 1:
                        raise class_for(trainer, "utilities.exceptions.SIGTERMException")

                for item in audit(opened, share, config, device=device, on_sample=on_sample, objects=objects):
                    if item.key in drawn:
                        pictures[strip_tag(item)] = audited_strip(item, config, stacked=True)
                    keep_strip = first and self.keep_strips and item.explained is not None
                    strip = audited_strip(item, config) if keep_strip else None
                    maps = object_maps(item, strip) if self.keep_maps else None
                    iof = None if item.explained is None else item.explained.iof.cpu()
                    kept.append(_Kept(object_row(item), item.counts, iof, maps))
            return kept

        def audit_together(chosen: Sequence[AuditSample], config: AuditConfig, *, first: bool) -> list[_Kept]:
            share = chosen[trainer.global_rank :: trainer.world_size]
            kept = run_on_all_ranks(trainer.strategy, lambda: audit_share(share, config, first=first))
            return sorted(kept, key=lambda item: item.row.key)

        kept = audit_together(samples, self.config, first=True)
        rows = tuple(item.row for item in kept)
        explained = {row.image_id for row in rows if row.explained}
        twice = [sample for sample in samples if sample.image_id in explained][: self.reseeded_images]
        reseeded_config = replace(self.config, seed=self.config.seed + 1, occlusion=False)  # it wants the maps alone
        reseeded = audit_together(twice, reseeded_config, first=False) if twice else []
        values = [item.iof for item in kept if item.iof is not None]
        iof = torch.stack(values) if values else torch.zeros(0, len(IOF_NAMES))
        counts = {item.row.image_id: item.counts for item in kept}
        paired = sum(not row.missed for row in rows)
        why_few = why_few_are_paired(paired, len(rows), counts.values(), self.config)
        return AuditResult(rows, iof, _maps(kept), _maps(reseeded), pictures, why_few)


@dataclass(frozen=True, eq=False)
class _Kept:
    """What travels between processes of an audited object."""

    row: ObjectRow
    counts: PairingCounts | None
    iof: Tensor | None
    maps: ObjectMaps | None


def _maps(kept: Sequence[_Kept]) -> dict[Key, ObjectMaps]:
    return {item.row.key: item.maps for item in kept if item.maps is not None}
