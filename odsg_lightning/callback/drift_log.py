"""What the maps of an audit are compared with: those of the audit before it, of the reference, of another seed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from odsg_lightning.metrics.drift import MEASURES, drift_means, map_drift
from odsg_lightning.names import OF_DETECTOR, PARAMETERS
from odsg_lightning.records.maps_file import Key, ObjectMaps, maps_beside
from odsg_lightning.records.record import differing_entries, read_record

AuditMaps = dict[Key, ObjectMaps]

_NOT_OF_MAPS = ("near_threshold", "near_margin", "occlusion", "sufficiency_margin", "necessity_margin")


def settings_of_maps(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that an audit's maps depend on, of all that its numbers depend on.

    Without the detector's own, which are not known before its first audit.
    """
    return {n: value for n, value in measured.items() if n not in _NOT_OF_MAPS and not n.startswith(OF_DETECTOR)}


def settings_in_state_key(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return :func:`settings_of_maps` under the names that they had first, so that old checkpoints are taken up."""
    settings = settings_of_maps(measured)
    if settings["target"] == "output":  # the only one that there was
        del settings["target"]
    return {"method" if name == "explainer" else name: value for name, value in settings.items()}


class DriftLog:
    """Keeps the maps of the previous audit and of the reference, through checkpoints, and compares others with them.

    Args:
        enabled: if not, nothing is kept and nothing is logged.
        reseeded: whether audits under another seed are compared, too.
        reference: an audit record with maps; None for the first audit of use: see :meth:`advance`.
    """

    def __init__(self, *, enabled: bool, reseeded: bool, reference: str | Path | None) -> None:
        """See the class for the arguments."""
        self.enabled = enabled
        self._reseeded = reseeded
        self._file = reference
        self._audit_set: str | None = None
        self._previous: AuditMaps | None = None
        self._reference: AuditMaps | None = None

    def begin(self, fingerprint: Mapping[str, Any]) -> None:
        """Read the reference record, and forget the maps of another audit set.

        Args:
            fingerprint: of the audits to come.

        Raises:
            MisconfigurationException: the reference is no audit of the same set with the same settings, as far as maps
                depend on them, or has no maps.
            BrokenInputError: it cannot be read.
        """
        self._keep_to(fingerprint["audit_set"])
        if self.enabled and self._file is not None:
            self._reference = _read_reference(Path(self._file), fingerprint)

    def scalars(self, maps: AuditMaps, reseeded: AuditMaps) -> dict[str, float]:
        """Return every value by its name, NaN where there is nothing to compare with.

        Args:
            maps: of the audit.
            reseeded: of the same weights under another seed.
        """
        if not self.enabled:
            return {}
        values = _named("drift", maps, self._previous) | _named("drift_ref", maps, self._reference)
        return values | (_named("drift_noise", maps, reseeded) if self._reseeded else {})

    def lost(self, maps: AuditMaps) -> list[Key]:
        """Return the objects that the previous audit detected and this one did not."""
        return sorted((self._previous or {}).keys() - maps.keys())

    def advance(self, maps: AuditMaps, n_objects: int) -> None:
        """Make an audit the previous one, and, unless a file is the reference, that too if it is the first of use.

        A detector finds little when it begins to learn. So the reference is the first audit with maps of at least half
        of the objects; until there is one, that with the most.

        Args:
            maps: of the audit.
            n_objects: number of audited objects, missed ones included.
        """
        if not self.enabled:
            return
        self._previous = {key: replace(item, strip=b"") for key, item in maps.items()}
        known = len(self._reference or {})
        if self._file is None and 2 * known < n_objects and len(maps) > known:
            self._reference = self._previous

    def state_dict(self) -> dict[str, Any]:
        """Return the maps as four tensors an audit; a reference from a file stays there."""
        previous = _packed(self._previous)
        own = self._reference if self._file is None else None
        reference = previous if own is self._previous else _packed(own)
        return {"audit_set": self._audit_set, "previous": previous, "reference": reference}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the maps of the run that is resumed, if they are of the same audit set."""
        if not self.enabled:
            return
        current, self._audit_set = self._audit_set, state["audit_set"]
        self._previous = _unpacked(state["previous"])
        if self._file is None:
            self._reference = _unpacked(state["reference"])
        if current is not None:
            self._keep_to(current)

    def _keep_to(self, audit_set: str) -> None:
        if self._previous is not None and self._audit_set != audit_set:
            rank_zero_warn("The audit set is another than before: drift starts again, from the next audit on.")
            self._previous = None
            self._reference = None if self._file is None else self._reference
        self._audit_set = audit_set


def _named(prefix: str, maps: AuditMaps, others: AuditMaps | None) -> dict[str, float]:
    others = others or {}
    pairs = [(maps[key], others[key]) for key in sorted(maps.keys() & others.keys())]
    drifts = [_drift(maps_now, maps_then) for maps_now, maps_then in pairs]
    values = torch.cat(drifts) if drifts else torch.zeros(0, len(PARAMETERS), len(MEASURES))
    means = {f"{prefix}/{name}": float(value) for name, value in drift_means(values).items()}
    return means | {f"{prefix}/n_objects": float(values.isfinite().flatten(1).any(dim=1).sum())}


def _drift(item: ObjectMaps, other: ObjectMaps) -> Tensor:
    arrays = (item.maps, other.maps, item.foreground, other.foreground)
    return map_drift(*(torch.tensor(array)[None] for array in arrays))


def _read_reference(path: Path, fingerprint: Mapping[str, Any]) -> AuditMaps:
    record = read_record(path)
    for name in differing_entries(settings_of_maps(fingerprint), settings_of_maps(record.fingerprint)):
        raise MisconfigurationException(
            f"Expected the reference {path} to be an audit like those of this run, but its {name} is "
            f"{record.fingerprint.get(name)!r}, not {fingerprint.get(name)!r}. Audit the same set with the same "
            "settings."
        )
    maps = maps_beside(path, record.maps)
    if maps is None:
        raise MisconfigurationException(
            f"Expected the reference {path} to have its maps beside it, but they are not there. Copy the .npz file, "
            "too, or audit again."
        )
    read = {row.key: maps.read(row.key) for row in record.objects}
    return {key: replace(item, strip=b"") for key, item in read.items() if item is not None}


def _packed(maps: AuditMaps | None) -> dict[str, Tensor] | None:
    """All maps one after the other, the foregrounds as bits: ``torch.load(weights_only=True)`` reads such tensors."""
    if maps is None:
        return None
    keys = sorted(maps)
    empty = ([np.zeros(0, np.float16)], [np.zeros(0, np.uint8)])
    flat = [maps[key].maps.reshape(-1) for key in keys] or empty[0]
    bits = [np.packbits(maps[key].foreground) for key in keys] or empty[1]
    return {
        "keys": torch.tensor(keys, dtype=torch.int64).reshape(-1, 2),
        "sizes": torch.tensor([maps[key].maps.shape[1:] for key in keys], dtype=torch.int64).reshape(-1, 2),
        "maps": torch.from_numpy(np.concatenate(flat)),
        "foreground": torch.from_numpy(np.concatenate(bits)),
    }


def _unpacked(state: Mapping[str, Tensor] | None) -> AuditMaps | None:
    if state is None:
        return None
    values, bits = state["maps"].cpu().numpy(), state["foreground"].cpu().numpy()
    maps: AuditMaps = {}
    for (image, annotation), (height, width) in zip(state["keys"].tolist(), state["sizes"].tolist(), strict=True):
        count = len(PARAMETERS) * height * width
        n_bytes = -(-count // 8)
        shape = (len(PARAMETERS), height, width)
        foreground = np.unpackbits(bits[:n_bytes], count=count).astype(bool).reshape(shape)
        maps[image, annotation] = ObjectMaps(values[:count].reshape(shape), foreground)
        values, bits = values[count:], bits[n_bytes:]
    return maps
