"""What the results in a folder were made with: other settings are refused, so that no table mixes two experiments."""

import json
from pathlib import Path
from typing import Any

from odsg_lightning.errors import UserInputError
from odsg_lightning.files import read_json, write_text


def keep_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write the settings beside the results, or check that they are those that are there.

    Raises:
        UserInputError: names each setting that differs.
        BrokenInputError: the file is not readable.
    """
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_text(path, json.dumps(settings, indent=2) + "\n")
        return
    before = read_json(path, "the settings of an experiment")
    changed = [
        f"{name} was {before.get(name)!r} and is {settings.get(name)!r}"
        for name in sorted(before.keys() | settings.keys())
        if before.get(name) != settings.get(name)
    ]
    if changed:
        raise UserInputError(
            f"Expected the settings that {path.parent} was begun with, but {'; '.join(changed)}. Choose another "
            "--output, or remove this one."
        )
