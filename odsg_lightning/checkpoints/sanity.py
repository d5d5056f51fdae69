"""Checks an explainer on a finished checkpoint, and writes what came of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from odsg_lightning.checkpoints.device import Device, choose_device
from odsg_lightning.checkpoints.opened import load_any, running
from odsg_lightning.data.audit_set_files import load_sample, unchanged_dataset
from odsg_lightning.explainers.base import Explainer
from odsg_lightning.files import make_folder, replaced, sha256_of, write_text
from odsg_lightning.records.audit_set import read_audit_set
from odsg_lightning.sanity.check import SanityCheck, weight_randomisation
from odsg_lightning.sanity.outputs import sanity_figure, sanity_json, sanity_markdown


def check_checkpoint(
    checkpoint: Path,
    audit_set: Path,
    explainer: Explainer,
    *,
    config: str | Path | None = None,
    num_classes: int | None = None,
    annotations: Path | None = None,
    images: Path | None = None,
    device: Device = "auto",
    trust: bool = False,
    score_threshold: float = 0.5,
    max_objects: int | None = None,
    seed: int = 0,
) -> tuple[SanityCheck, dict[str, Any]]:
    """Check whether an explainer's maps of a checkpoint depend on its weights.

    Args:
        checkpoint: see :func:`odsg_lightning.checkpoints.detector.load_detector`.
        audit_set: file of :func:`odsg_lightning.records.audit_set.read_audit_set`; its images are used.
        explainer: what is checked.
        config: of a Detectron2 checkpoint.
        num_classes: of a Detectron2 checkpoint; None for the number of categories of the audit set.
        annotations: where the COCO file lies, if not where the audit set says.
        images: where its images lie, if not there.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        trust: let the checkpoint run code.
        score_threshold: see :func:`odsg_lightning.sanity.check.weight_randomisation`, also for the next two.
        max_objects: of each image.
        seed: of permutations and noise.

    Returns:
        The check, and the settings that it depends on.

    Raises:
        BrokenInputError: a file is missing or cannot be used, or the detector does not run.
        UserInputError: arguments that do not fit.
    """
    place = choose_device(device)
    chosen = read_audit_set(audit_set)
    coco = unchanged_dataset(chosen, annotations, images)
    detector = load_any(checkpoint, None, config, num_classes, len(chosen.categories), trust).module.to(place)
    shown = tqdm(coco.images, desc="Sanity check", unit="image", disable=None)  # silent where there is no terminal
    settings: dict[str, Any] = {"score_threshold": score_threshold, "max_objects": max_objects, "seed": seed}
    with running(checkpoint):
        check = weight_randomisation(
            detector, (load_sample(chosen, coco, image) for image in shown), explainer, **settings
        )
    told = {"explainer": repr(explainer), "checkpoint": sha256_of(checkpoint), "audit_set": chosen.sha256, **settings}
    return check, told


def write_check(check: SanityCheck, settings: Mapping[str, Any], folder: Path, title: str) -> None:
    """Write ``sanity.json``, ``sanity.md`` and ``sanity.png`` into a folder, which is made; earlier ones are replaced.

    Raises:
        UserInputError: they cannot be written there.
        DiskError: the disk is full, or fails.
    """
    make_folder(folder)
    content = json.dumps(sanity_json(check, settings), indent=1, allow_nan=False)
    write_text(folder / "sanity.json", content + "\n")
    write_text(folder / "sanity.md", sanity_markdown(check, title))
    if check.stages:
        with replaced(folder / "sanity.png") as temporary:
            Image.fromarray(sanity_figure(check)).save(temporary, format="PNG")
