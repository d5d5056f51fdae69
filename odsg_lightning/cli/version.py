"""``odsg --version``: the versions that a bug report needs."""

import argparse
from typing import Any

from odsg_lightning.environment import detectron2_build, versions

_REPORTED = ("torch", "torchvision", "lightning", "torchmetrics", "pycocotools", "tensorboard", "numpy")


class PrintVersions(argparse.Action):
    """Prints versions, one per line, and ends the program. They are looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print them and leave."""
        installed = versions(*_REPORTED)
        print(f"odsg_lightning {installed['odsg_lightning']}")
        print(f"Python {installed['python']}")
        for name in _REPORTED:
            print(f"{name} {installed.get(name, 'not installed')}")
        print(f"detectron2 {detectron2_build()}")
        parser.exit()
