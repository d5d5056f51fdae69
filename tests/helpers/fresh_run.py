"""Train a few steps in a process of its own and print how many audits ran and a hash of the weights."""

import hashlib
import sys
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from runs import module_like, quick_audit, shapes_data, trainer_with

from odsg_lightning.detectors.build import build_detector, load_config

torch.set_num_threads(1)


def main(weights: str, shapes: str, audits: str) -> None:
    model = build_detector(load_config("retinanet_tiny"))
    model.load_state_dict(torch.load(weights))
    seed_everything(7, verbose=False)
    module, audit = module_like(model), quick_audit()
    trainer_with([audit] if audits == "1" else [], max_steps=6).fit(module, datamodule=shapes_data(Path(shapes)))
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in module.state_dict().values()))
    print(audit.n_validations - audit.n_failed, digest.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
