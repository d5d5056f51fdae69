"""The audit callback: what does each number of the detector look at, asked at every validation."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_warn

from odsg_lightning.audit.config import AuditConfig, Method
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.audit.loop import audit
from odsg_lightning.detectors.protocol import Detector
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.saliency.options import Engine, Precision
from odsg_lightning.training.checks import check_trainer, samples_of_datamodule
from odsg_lightning.training.engine_notice import EngineNotice
from odsg_lightning.training.failure import OnError, report_failure
from odsg_lightning.training.image_log import log_image
from odsg_lightning.training.progress import audit_progress
from odsg_lightning.training.strips import audited_strip, drawn_objects, strip_tag
from odsg_lightning.training.tally import AuditTally
from odsg_lightning.types import AuditSample


class ODSmoothGradCallback(Callback):
    """Audits a detector with ODSmoothGrad at its validations, without touching the training.

    At each audited validation, every object of a fixed audit set is looked up among the detections, and those found
    are explained: one saliency map for each of x_min, y_min, x_max, y_max and the score. Logged are

    - ``iof/<parameter>/<region>``: which share of a map's foreground lies on that third (edge, middle, opposite) of the
      object, or on the object as a whole; ``iof/object``, ``iof/edge``, ``iof/middle``: means of the four box maps;
    - ``audit/coverage``: share of the objects that were detected; ``audit/n_objects``; ``audit/n_undefined``: maps
      without a value (zero or not finite); ``audit/match_rate``: share of the noisy passes in which a detected object
      was found again; ``audit/samples_per_object``: mean number of noisy passes made for a detected object;
      ``audit/seconds``; ``audit/n_failed``: audits that failed so far;
    - one picture per object, ``saliency/image_<id>/annotation_<id>``, of the same objects at every step.

    A scalar without a value (nothing detected, or the audit failed) is logged as NaN, so that a monitor always finds
    its key. ``ModelCheckpoint`` never takes NaN for the best; give ``EarlyStopping`` ``check_finite=False``.

    The audit runs in ``trainer.fit``, ``trainer.validate`` and ``trainer.test``. Training with it gives the same bits
    as training without it. Under ``fast_dev_run`` one image and one sample are audited. With several processes (DDP)
    the images are shared out, and the pictures are those of the first process.

    Args:
        every_n_validations: audit the first validation of a fit and then every n-th; a resumed fit keeps to this count,
            but audits its first validation, too. ``trainer.validate`` and ``trainer.test`` are always audited.
        samples: the audit set; by default that of the data module (``trainer.datamodule.audit_samples()``).
        method: ``"smoothgrad"``, or ``"gradient"`` for the plain gradient (one pass without noise).
        n_samples: noisy passes of SmoothGrad; with a ``tolerance``, the most that an object gets.
        sigma: standard deviation of the noise relative to the pixel range (0.05 is 12.75 grey levels).
        threshold: share of a blurred map's maximum above which a pixel is foreground.
        blur_sigma: standard deviation of the blur before binarising a map, in pixels.
        score_threshold: a detection must score above this to count as having found its object.
        pair_iou: least IoU of a detection with its ground-truth object.
        match_iou: least IoU of a noisy detection with the clean one.
        seed: of the noise.
        max_objects_per_image: audit only the first so many objects of an image, by annotation id; None for all.
        max_strips: number of pictures per audit, at most; 0 for none.
        tolerance: None, or stop an object's passes before ``n_samples``: as soon as one more, from the third on, leaves
            its five maps with a Pearson correlation of at least ``1 - tolerance``. That bounds the last step, not the
            distance to the map of many passes, which is larger: see
            :func:`odsg_lightning.saliency.smoothgrad.smoothgrad`.
        engine: ``"auto"`` computes the gradients in the fastest way that the detector allows, ``"windowed"``, ``"cut"``
            or ``"autograd"`` in one by name. All give the same maps, but for rounding. The log says once which one
            runs and why.
        precision: ``"bf16"`` lets the windowed engine compute its linear backward pass in bfloat16: approximate.
        adapter: makes a detector of the LightningModule.
        on_error: ``"warn"``: a failing audit warns, is counted, and training goes on; ``"raise"``: it stops the run.

    Raises:
        ValueError: an argument out of range.
        MisconfigurationException: before training: no audit set, a strategy that shards the model, a second audit
            callback (they would log under the same names), weight averaging placed before the audit, or a fast engine
            asked for by name and a detector that has none.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.callbacks import ModelCheckpoint
        >>> audit = ODSmoothGradCallback(every_n_validations=2)
        >>> keep = ModelCheckpoint(monitor="iof/object", mode="max", auto_insert_metric_name=False)
        >>> trainer = Trainer(callbacks=[audit, keep], logger=False)
    """

    def __init__(
        self,
        every_n_validations: int = 1,
        *,
        samples: Sequence[AuditSample] | None = None,
        method: Method = "smoothgrad",
        n_samples: int = 20,
        sigma: float = 0.05,
        threshold: float = 0.32,
        blur_sigma: float = 2.0,
        score_threshold: float = 0.9,
        pair_iou: float = 0.5,
        match_iou: float = 0.7,
        seed: int = 0,
        max_objects_per_image: int | None = None,
        max_strips: int = 8,
        tolerance: float | None = None,
        engine: Engine = "auto",
        precision: Precision = "full",
        adapter: Callable[[LightningModule], Detector] = resolve_adapter,
        on_error: OnError = "warn",
    ) -> None:
        """See the class for the arguments."""
        if every_n_validations < 1:
            raise ValueError(
                f"Expected argument `every_n_validations` to be at least 1, but got {every_n_validations}."
            )
        if max_strips < 0:
            raise ValueError(f"Expected argument `max_strips` to be 0 or more, but got {max_strips}.")
        if on_error not in get_args(OnError):
            raise ValueError(f"Expected argument `on_error` to be 'warn' or 'raise', but got {on_error!r}.")
        self.config = AuditConfig(
            method=method,
            n_samples=n_samples,
            sigma=sigma,
            match_iou=match_iou,
            pair_iou=pair_iou,
            score_threshold=score_threshold,
            blur_sigma=blur_sigma,
            threshold=threshold,
            seed=seed,
            max_objects_per_image=max_objects_per_image,
            tolerance=tolerance,
            engine=engine,
            precision=precision,
        )
        self.every_n_validations = every_n_validations
        self.samples = samples
        self.max_strips = max_strips
        self.adapter = adapter
        self.on_error = on_error
        self.n_validations = 0
        self.n_failed = 0
        self.seconds = 0.0
        """Time spent auditing by this process since it began, in seconds."""
        self._tally = AuditTally(blur_sigma, threshold)
        self._notice = EngineNotice(self.config)
        self._audit_set: list[AuditSample] = []
        self._audited_in_this_fit = False

    # Hooks ------------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the Trainer and take the audit set, so that mistakes show before training begins."""
        if stage == "predict":
            return
        check_trainer(trainer, self, fitting=stage == "fit")
        self._audit_set = list(self.samples if self.samples is not None else samples_of_datamodule(trainer))
        if not any(sample.annotation_ids for sample in self._audit_set):
            raise MisconfigurationException("Expected an audit set with at least one object, but got an empty one.")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the detector once before training, so that a module without one is refused at once."""
        with isolated(pl_module):  # an adapter may put hooks on the module
            self._notice.say(self.adapter(pl_module))
        if not trainer.enable_validation:
            rank_zero_warn(
                "ODSmoothGradCallback audits at validations, but this run has none: it needs a validation_step, a "
                "validation loader and limit_val_batches above 0."
            )
        self._audited_in_this_fit = False

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit, if this validation's turn has come."""
        if trainer.sanity_checking:
            return
        if trainer.state.fn == TrainerFn.FITTING:
            turn = self.n_validations % self.every_n_validations == 0
            self.n_validations += 1
            # A resumed run starts without values, and a monitor that finds none at a validation ends the run.
            if not turn and self._audited_in_this_fit:
                return
            self._audited_in_this_fit = True
        self._audit_and_log(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit."""
        self._audit_and_log(trainer, pl_module)

    @property
    def state_key(self) -> str:
        """Tells this callback's state from that of another one in the same checkpoint."""
        return self._generate_state_key(every_n_validations=self.every_n_validations, **self.config.measured)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to keep the cadence."""
        return {"n_validations": self.n_validations, "n_failed": self.n_failed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the cadence of the run that is resumed."""
        self.n_validations = state_dict["n_validations"]
        self.n_failed = state_dict["n_failed"]

    # The audit --------------------------------------------------------------------------------------------------------

    def _audit_and_log(self, trainer: Trainer, module: LightningModule) -> None:
        started = time.perf_counter()
        strips: dict[str, np.ndarray] = {}
        error = None
        self._tally.restart(module.device)
        try:
            with isolated(module):
                strips = self._audit_share(trainer, module)
        except Exception as raised:
            error = raised
        # Every process must learn of a failure before any of them waits for the others' values.
        if trainer.strategy.reduce_boolean_decision(error is None, all=True):
            scalars = self._tally.scalars(trainer.strategy)
            self._log_pictures(trainer, strips)
        else:
            self.n_failed += 1
            report_failure(self.on_error, trainer.global_step, "Its values are logged as NaN.", error)
            scalars = self._tally.undefined()
        error = None  # its traceback holds this frame: a cycle that would keep the failed pass's graph in memory
        self._tally.restart(module.device)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        scalars["audit/seconds"] = torch.tensor(seconds, device=module.device)
        scalars["audit/n_failed"] = torch.tensor(float(self.n_failed), device=module.device)
        self.log_dict(scalars)  # type: ignore[attr-defined] # Lightning attaches it to every callback

    def _audit_share(self, trainer: Trainer, module: LightningModule) -> dict[str, np.ndarray]:
        """Audit this process's images into the tally, and return the strips of the first process by tag."""
        samples = self._audit_set[trainer.global_rank :: trainer.world_size]
        config = self.config
        if trainer.fast_dev_run:  # type: ignore[attr-defined] # set by another object
            samples, config = samples[:1], replace(config, n_samples=1)
        detector = self.adapter(module)
        self._notice.say(detector)
        drawn = drawn_objects(samples, config, self.max_strips) if trainer.is_global_zero else set()
        strips = {}
        with audit_progress(trainer, len(samples) * config.passes) as on_pass:
            for found in audit(detector, samples, config, device=module.device, on_pass=on_pass):
                self._tally.add(found)
                if (found.sample.image_id, found.annotation_id) in drawn:
                    strips[strip_tag(found)] = audited_strip(found, config)
        return strips

    def _log_pictures(self, trainer: Trainer, strips: dict[str, np.ndarray]) -> None:
        try:
            for tag, strip in strips.items():
                log_image(trainer, tag, strip)
        except Exception as error:  # a logger of somebody else's must not end the training either
            consequence = "Its numbers are logged, its pictures are not."
            report_failure(self.on_error, trainer.global_step, consequence, error)
