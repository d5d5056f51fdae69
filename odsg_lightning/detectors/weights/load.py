"""Loads weights into a detector and says what was and was not loaded."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from lightning.fabric.utilities import rank_zero_warn  # knows the rank, also where no Trainer runs
from torch import Tensor, nn

from odsg_lightning.detectors.detectron2_names import DetectionCheckpointer, PathManager
from odsg_lightning.detectors.weights.category_names import category_names_in
from odsg_lightning.detectors.weights.files import read_checkpoint_file
from odsg_lightning.detectors.weights.tensor_names import named_as
from odsg_lightning.errors import BrokenInputError
from odsg_lightning.files import regular_file

_SHOWN = 5


class SkippedLayer(NamedTuple):
    """A tensor whose shape in the file is not the detector's."""

    name: str
    expected: tuple[int, ...]
    found: tuple[int, ...]

    def __str__(self) -> str:
        """Name and both shapes."""
        return f"{self.name} (detector {self.expected}, file {self.found})"


@dataclass(frozen=True)
class WeightsReport:
    """What :func:`load_weights` did.

    Attributes:
        path: the file.
        loaded: how many of the detector's tensors come from the file.
        skipped: tensors in the file with another shape, usually the classifier for another number of classes.
        missing: the detector's tensors that the file lacks, usually the heads when the file is an ImageNet backbone.
        unexpected: tensors of the file that the detector has no place for.
        category_names: names of the classes that the file's detector was trained on, if it says.
    """

    path: str
    loaded: int
    skipped: tuple[SkippedLayer, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    category_names: tuple[str, ...] | None = None

    @property
    def complete(self) -> bool:
        """Whether the file filled the detector and nothing was left over."""
        return not (self.skipped or self.missing or self.unexpected)

    def __str__(self) -> str:
        """One line per kind."""
        lines = [f"{self.path}: {self.loaded} tensors loaded."]
        if self.skipped:
            lines.append(f"Of another shape, so left as initialised: {_first(self.skipped)}.")
        if self.missing:
            lines.append(f"Not in the file, so left as initialised: {_first(self.missing)}.")
        if self.unexpected:
            lines.append(f"In the file only, so not used: {_first(self.unexpected)}.")
        return "\n".join(lines)


def load_weights(detector: nn.Module, path: str | Path, *, trust: bool = False) -> WeightsReport:
    """Load the weights of a file into a detector.

    Read are ``.pth`` files (``{"model": state_dict}`` or a plain state dict) and the ``.pkl`` files of Detectron2's
    model zoo, detectors and ImageNet backbones. Layers of another shape are skipped. Anything but a complete load is
    reported in one warning. Nothing that the file holds is run, unless ``trust`` says so.

    Args:
        detector: Detectron2's own module.
        path: the file, or an address that Detectron2 downloads from (``detectron2://``, ``https://``).
        trust: read it with Python's own pickle: see
            :func:`odsg_lightning.detectors.weights.files.read_checkpoint_file`.

    Raises:
        BrokenInputError: there is no such file, it is no checkpoint or holds more than arrays and plain values, or it
            does not fill the body of the backbone.
    """
    file = _local_file(path)
    checkpointer = _ReportingCheckpointer(detector, trust)
    with _quiet_detectron2():
        try:
            rest = checkpointer.load(str(file), checkpointables=[])
        except BrokenInputError:
            raise
        except Exception as error:  # whatever unpickling raises
            hint = _lightning_hint(error)
            raise BrokenInputError(
                f"Expected {file} to be a Detectron2 checkpoint (.pth, or .pkl of the model zoo), but it cannot be "
                f"read as one: {type(error).__name__}: {error}.{hint}"
            ) from error
    report = replace(checkpointer.report(str(path)), category_names=category_names_in(rest, file))
    _refuse_incomplete_backbone(detector, report)
    if not report.complete:
        rank_zero_warn(str(report))
    return report


def load_state(module: nn.Module, state: Mapping[str, Any], source: object) -> None:
    """Load tensors by name into a module, all of them or none, whatever either is wrapped in.

    Args:
        module: what to fill.
        state: its ``state_dict`` as a checkpoint holds it.
        source: name of the checkpoint, for the message.

    Raises:
        BrokenInputError: tensors are missing, left over, of another shape, or no tensors.
    """
    own = module.state_dict()
    others = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        raise BrokenInputError(f"Expected {source} to hold tensors only, but these are none: {_first(others)}.")
    renamed = named_as(own, state)
    shared = own.keys() & renamed.keys()
    skipped = [
        SkippedLayer(name, tuple(own[name].shape), tuple(renamed[name].shape))
        for name in own
        if name in shared and own[name].shape != renamed[name].shape
    ]
    missing = [name for name in own if name not in shared]
    unexpected = [name for name in renamed if name not in shared]
    if skipped or missing or unexpected:
        texts: dict[str, Sequence[object]] = {
            "of another shape": skipped,
            "not in the file": missing,
            "in the file only": unexpected,
        }
        raise BrokenInputError(
            f"Expected {source} to fill the detector of its configuration, but there are tensors "
            f"{'; '.join(f'{what}: {_first(which)}' for what, which in texts.items() if which)}."
        )
    try:
        module.load_state_dict(renamed)
    except Exception as error:  # of tensors that cannot be copied: sparse, quantized
        raise BrokenInputError(
            f"Expected {source} to fill the detector of its configuration, but: {str(error).expandtabs()[:2000]}"
        ) from error


class _ReportingCheckpointer(DetectionCheckpointer):  # type: ignore[misc, unused-ignore] # untyped base class
    """Reads files with care, and keeps what Detectron2 would only log."""

    def __init__(self, model: nn.Module, trust: bool) -> None:
        super().__init__(model)
        self._trust = trust

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Tell the formats apart as Detectron2 does; its own method unpickles whatever comes."""
        data = read_checkpoint_file(Path(filename), trust=self._trust)
        if filename.endswith(".pyth"):  # pycls
            model = {k: v for k, v in data["model_state"].items() if not k.endswith("num_batches_tracked")}
            return {"model": model, "__author__": "pycls", "matching_heuristics": True}
        if not filename.endswith(".pkl"):
            data = data if "model" in data else {"model": data}
            return data | {"model": self._renamed(data["model"], filename)}
        if "model" in data and "__author__" in data:  # Detectron2's model zoo
            return data | {"model": self._renamed(data["model"], filename)}
        blobs = data.get("blobs", data)  # Caffe2: detectors have "blobs", ImageNet models do not
        blobs = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
        return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}

    def _renamed(self, state: Any, filename: str) -> dict[str, Any]:
        if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
            raise BrokenInputError(f"Expected 'model' in {filename} to be tensors by name, but it is something else.")
        return named_as(self.model.state_dict(), state)

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        self._incompatible = incompatible

    def report(self, path: str) -> WeightsReport:
        incompatible = self._incompatible
        shapes = {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        skipped = [SkippedLayer(name, tuple(own), tuple(other)) for name, other, own in incompatible.incorrect_shapes]
        left = {layer.name for layer in skipped}
        missing = [name for name in incompatible.missing_keys if name not in left]
        return WeightsReport(
            path,
            len(shapes) - len(skipped) - len(missing),
            tuple(skipped),
            tuple(missing),
            tuple(incompatible.unexpected_keys),
        )


def _local_file(path: str | Path) -> Path:
    if "://" in str(path):
        path = PathManager.get_local_path(str(path))
    return regular_file(Path(path).expanduser(), "a checkpoint file (.pth or .pkl)")


def _refuse_incomplete_backbone(detector: nn.Module, report: WeightsReport) -> None:
    """Training on a half-loaded backbone looks like training, only worse: stop it."""
    parameters = [name for name, _ in detector.named_parameters()]
    body = [name for name in parameters if name.startswith("backbone.bottom_up.")]
    body = body or [name for name in parameters if name.startswith("backbone.")] or parameters
    skipped = {layer.name: layer for layer in report.skipped}
    bad = [str(skipped.get(name, name)) for name in body if name in skipped or name in report.missing]
    if bad:
        raise BrokenInputError(
            f"Expected {report.path} to fill the backbone, but {len(bad)} of its {len(body)} parameters are missing or "
            f"of another shape: {_first(bad)}. Use weights of the same backbone (MODEL.RESNETS.DEPTH and the like), or "
            f"train without. {report}"
        )


def _first(names: Sequence[object]) -> str:
    shown = ", ".join(str(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _lightning_hint(error: Exception) -> str:
    if "Unsupported type found" in str(error):  # fvcore met an entry that is no tensor, such as "epoch"
        return (
            " If it is a Lightning checkpoint, use DetectionModule.load_from_checkpoint, or write the weights out with "
            "DetectionModule.export_weights first."
        )
    return ""


@contextmanager
def _quiet_detectron2() -> Iterator[None]:
    """Silence Detectron2's own lines about shapes: the report says the same once."""
    logger = logging.getLogger("detectron2.checkpoint.c2_model_loading")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
