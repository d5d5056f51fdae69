"""Finds the project's YAML files, in a source checkout and in an installed wheel."""

from pathlib import Path

from odsg_lightning.errors import UserInputError

_PACKAGE = Path(__file__).resolve().parent
# A wheel carries the repository's `configs/` inside the package; a checkout has it beside the package.
_ROOTS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def config_path(name: str) -> Path:
    """Return the path of one of the project's YAML files.

    Args:
        name: path below ``configs/``, with or without ``.yaml``, such as ``"detectors/retinanet_tiny"``.

    Returns:
        The file's absolute path.

    Raises:
        UserInputError: there is no such file; the message lists those there are.
    """
    root = _root()
    for candidate in (root / name, root / f"{name}.yaml"):
        if candidate.is_file() and candidate.resolve().is_relative_to(root):
            return candidate
    known = ", ".join(config_names())
    raise UserInputError(
        f"Expected `name` to be one of the project's configurations, but got {name!r}. There are: {known}."
    )


def config_names(folder: str = "") -> list[str]:
    """Return the names that :func:`config_path` accepts, sorted, without ``.yaml``.

    Args:
        folder: only the files of this folder of ``configs/``, such as ``"detectors"``.
    """
    root = _root()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in (root / folder).rglob("*.yaml"))


def _root() -> Path:
    for root in _ROOTS:
        if root.is_dir():
            return root
    raise UserInputError(f"The project's configuration files are in neither {_ROOTS[0]} nor {_ROOTS[1]}: reinstall it.")
