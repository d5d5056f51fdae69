"""Scripts of a folder of examples/, imported as they import one another."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@contextmanager
def scripts_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Yield what imports a file of the folder by its bare name; afterwards none of them is imported any more."""
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for name in [path.stem for path in folder.glob("*.py")]:
        sys.modules.pop(name, None)


@contextmanager
def same_threads() -> Iterator[None]:
    """Give back the number of threads, which the scripts set for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
