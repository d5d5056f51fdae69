"""Lightning comes as ``lightning.pytorch`` and as ``pytorch_lightning``: the same code twice, in two sets of classes.

A Trainer of one package knows nothing of the other's classes: their loggers, callbacks and progress bars are strangers
to it. So nothing in this folder asks ``isinstance`` with the classes of one package; it asks with
:func:`lightning_classes`. No package is loaded for that: one that nobody has loaded has no Trainer.
"""

import sys
from importlib import import_module
from typing import Any, Self

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def lightning_classes(path: str) -> tuple[type[Any], ...]:
    """Return a class of Lightning as each loaded package has it, for ``isinstance``.

    Args:
        path: of the class inside its package; a package whose version has no such class is left out.

    Example:
        >>> from lightning.pytorch.callbacks import EarlyStopping
        >>> EarlyStopping in lightning_classes("callbacks.EarlyStopping")
        True
        >>> lightning_classes("callbacks.NoSuchCallback")
        ()
    """
    return tuple(kind for package in _loaded() if (kind := _class_in(package, path)) is not None)


def class_for(trainer: object, path: str) -> type[Any]:
    """Return a class of Lightning as the package of a Trainer has it.

    Args:
        trainer: of either package, or of a class that is derived from it.
        path: of the class inside its package.

    Raises:
        TypeError: it is no Trainer of either.
    """
    for package in _loaded():
        if isinstance(trainer, _class_in(package, "Trainer")):
            kind: type[Any] = _class_in(package, path)
            return kind
    raise TypeError(f"Expected a Trainer of {' or '.join(_PACKAGES)}, but got {type(trainer).__name__}.")


class OfEveryPackage:
    """Makes a callback of ``lightning.pytorch`` a callback of every package that is loaded.

    A Trainer takes a callback in its list for what it can do. But only what is derived from the base class of its own
    package is taken alone (``callbacks=audit``), found by its ``LightningCLI``, or counted as a checkpoint callback.
    The user's imports come in any order, so this happens where a class is defined, and again where an object is made.

    Args:
        base: path of the base class; it must have no code that could get in the way.
    """

    _base: str

    def __init_subclass__(cls, base: str | None = None, **kwargs: Any) -> None:
        """See the class for the argument."""
        super().__init_subclass__(**kwargs)
        if base is not None:
            cls._base = base
        cls._join()

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Make an object; its arguments are for ``__init__``."""
        cls._join()
        return super().__new__(cls)

    @classmethod
    def _join(cls) -> None:
        cls.__bases__ += tuple(base for base in lightning_classes(cls._base) if not issubclass(cls, base))


def _loaded() -> list[str]:
    return [package for package in _PACKAGES if package in sys.modules]


def _class_in(package: str, path: str) -> Any:
    module, _, name = f"{package}.{path}".rpartition(".")
    return getattr(import_module(module), name, None)
