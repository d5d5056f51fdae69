"""The audit callback: what does each number of a detector look at, and what does it need? Asked at every validation."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_warn

from odsg_lightning.audit.config import AuditConfig, Target
from odsg_lightning.audit.engine_notice import EngineNotice
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.audit.measure import detector_fingerprint, fingerprint
from odsg_lightning.callback.budget import Cadence
from odsg_lightning.callback.checks import audit_set_of, check_arguments, check_counts, check_trainer
from odsg_lightning.callback.dashboard import Dashboard
from odsg_lightning.callback.distributed import AuditResult, DistributedAudit, audit_scalars
from odsg_lightning.callback.drift_log import DriftLog, settings_in_state_key
from odsg_lightning.callback.failure import OnError, report_failure, try_or_report
from odsg_lightning.callback.monitors import forget, let_monitors_wait
from odsg_lightning.callback.packages import OfEveryPackage
from odsg_lightning.callback.record_writer import RecordWriter
from odsg_lightning.callback.weights import ValidatedWeights
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.metrics.iof import IntersectionOverForeground
from odsg_lightning.saliency.options import Engine, Precision
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.types import AuditSample


class ODSmoothGradCallback(Callback, OfEveryPackage, base="callbacks.Callback"):
    """Audits a detector with ODSmoothGrad at its validations, without touching the training.

    At each audited validation, the objects of a fixed audit set are looked up among the detections (same class, IoU of
    at least ``pair_iou``, score above ``score_threshold``), and those detected are explained: one saliency map for each
    of x_min, y_min, x_max, y_max and the score. Then pixels are hidden, and the detector is asked again. Logged are

    - ``occlusion/sufficiency``: how far objects are still detected with all else hidden; ``occlusion/necessity``: how
      far they are gone when hidden themselves; 0 to 1, higher is better (:mod:`odsg_lightning.occlusion.evidence`);
    - ``iof/<parameter>/<region>``: which share of a map's foreground lies on that third (edge, middle, opposite) of the
      object, on the object as a whole, or, of a smaller foreground, near it; ``iof/object``, ``iof/near``,
      ``iof/edge``, ``iof/middle``, ``iof/opposite``: means of the four box maps;
    - ``enrichment/<parameter>/<region>``: how many times more of it lies on a third than of a uniform map;
      ``position/<parameter>``: where its mass lies, 0 at the parameter's own edge, 1 at the other
      (:mod:`odsg_lightning.metrics.edges`); ``enrichment/edge`` and so on, ``position/mean``: means;
    - ``maps/area_ratio``: size of a box map's foreground by the object's; ``maps/relevance_mass``: share of its sum on
      the object; ``maps/pointing_game``: share of the box maps whose maximum lies on it;
    - ``audit/recall``: share of the objects that were detected; ``audit/defined``: share of their maps with a value;
      ``audit/match_rate``: share of the noise samples in which they were detected again; ``audit/n_objects``,
      ``audit/n_undefined``, ``audit/samples_per_object``, ``audit/seconds``; ``audit/n_failed``: failed audits so far;
    - ``drift/<parameter>/{pearson,ssim,mask_iou}``: how far the maps are from those of the audit before, 0 for the same
      (:mod:`~odsg_lightning.metrics.drift`); ``drift/{pearson,ssim,mask_iou}``: means of the box maps;
      ``drift/n_objects``: objects with maps in both; ``drift_ref/...``: against the reference; ``drift_noise/...``:
      against the same weights under another seed: drift above it is real;
    - one picture per object, ``saliency/image_<id>/annotation_<id>``, of the same objects at every step, and the worst
      objects as a table: :mod:`odsg_lightning.callback.loggers` says what each logger takes.

    A scalar without a value (nothing detected, nothing to compare with yet, a failed audit) is logged as NaN, which
    ``ModelCheckpoint`` never takes for the best; give ``EarlyStopping`` ``check_finite=False``. A validation without an
    audit has no values, not even old ones: ``EarlyStopping`` waits, and its patience counts audits; in place of
    ``ModelCheckpoint`` use :class:`~odsg_lightning.callback.monitors.AuditCheckpoint`.

    The audit runs in ``trainer.fit``, ``validate`` and ``test``; training with it gives the same bits as without. Under
    ``fast_dev_run`` one image and one sample are audited, and nothing is kept. Several processes (DDP) share out the
    images; pictures are the first one's. For drift a checkpoint carries maps of two audits, 200 KB an object in each.

    Args:
        every_n_validations: audit the first validation of a fit and then every n-th; a resumed fit keeps to this count,
            but audits its first validation, too. ``trainer.validate`` and ``trainer.test`` are always audited.
        max_share: skip audits that would take more than this share of the run's time, 0.05 say, but not a fit's first
            or last (:class:`odsg_lightning.callback.budget.Cadence`); ``audit/skipped`` counts them. None: no limit.
        audit_samples: the audit set; by default that of the data module (``trainer.datamodule.audit_samples()``).
        explainer: ``"smoothgrad"``, ``"gradient"`` (one sample without noise), or another one (``docs/explainers.md``).
        explainer_settings: of another one, by name.
        target: ``"output"``, ``"logit"`` or ``"ground_truth"``: :class:`odsg_lightning.audit.config.AuditConfig`.
        n_samples: noise samples of SmoothGrad; with a ``tolerance``, the most that an object gets.
        sigma: standard deviation of the noise relative to the pixel range (0.05 is 12.75 grey levels).
        threshold: share of a blurred map's maximum above which a pixel is foreground.
        blur_sigma: standard deviation of the blur before binarising a map, in pixels.
        near_threshold: as ``threshold``, for IOF ``near``.
        near_margin: by how much an object grows for ``near``, as a share of its size (root of width times height).
        occlusion: hide pixels, too; without it no ``occlusion/...`` is logged.
        sufficiency_margin: how far around an object pixels stay when all others are hidden, as a share of its size.
        necessity_margin: how far around an object's box pixels are hidden with it, likewise.
        score_threshold: a detection must score above this to be paired with its object.
        pair_iou: least IoU of a detection with its ground-truth object.
        match_iou: least IoU of a detection in a noise sample with the one in the clean image.
        seed: of the noise.
        max_objects_per_image: audit only so many objects of an image, balanced over the classes; None for all.
        max_strips: number of pictures per audit, at most; 0 for none.
        tolerance: None, or when to stop before ``n_samples``: :func:`odsg_lightning.saliency.smoothgrad.smoothgrad`.
        engine: how gradients are computed: :data:`odsg_lightning.saliency.options.Engine`; the log says which one runs.
        precision: ``"bf16"`` lets the windowed engine compute its backward pass in bfloat16: approximate.
        trim: share, 0.001 say, that it may leave out at every block, likewise (``docs/speed.md``); 0: none.
        adapter: makes a detector of the LightningModule.
        drift: compare each audit's maps, reduced to 192 px, with those of the audit before and of the reference.
        reference: an audit record with maps, of the same set and settings; None for the first audit that finds enough.
        reseeded_images: audit so many images with a detected object again under another seed; 0: no ``drift_noise``.
        save_records: write each audit as a record: :class:`odsg_lightning.callback.record_writer.RecordWriter`.
        on_error: ``"warn"``: a failing audit warns, is counted, and training goes on; ``"raise"``: it stops the run.

    Raises:
        UserInputError: an argument out of range.
        MisconfigurationException: before training: no audit set, a reference that is not comparable, a strategy that
            shards the model, a second audit callback, weight averaging placed before the audit, a ModelCheckpoint that
            watches what is not measured at every validation, or a fast engine by name for a detector that has none.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from odsg_lightning.callback.monitors import AuditCheckpoint
        >>> audit = ODSmoothGradCallback(every_n_validations=2)
        >>> keep = AuditCheckpoint(monitor="iof/near", mode="max", auto_insert_metric_name=False)
        >>> trainer = Trainer(callbacks=[audit, keep], logger=False)
    """

    def __init__(
        self,
        every_n_validations: int = 1,
        *,
        max_share: float | None = None,
        audit_samples: Sequence[AuditSample] | None = None,
        explainer: str = AuditConfig.explainer,
        explainer_settings: Mapping[str, Any] | None = None,
        target: Target = AuditConfig.target,
        n_samples: int = AuditConfig.n_samples,
        sigma: float = AuditConfig.sigma,
        threshold: float = AuditConfig.threshold,
        blur_sigma: float = AuditConfig.blur_sigma,
        near_threshold: float = AuditConfig.near_threshold,
        near_margin: float = AuditConfig.near_margin,
        occlusion: bool = AuditConfig.occlusion,
        sufficiency_margin: float = AuditConfig.sufficiency_margin,
        necessity_margin: float = AuditConfig.necessity_margin,
        score_threshold: float = AuditConfig.score_threshold,
        pair_iou: float = AuditConfig.pair_iou,
        match_iou: float = AuditConfig.match_iou,
        seed: int = AuditConfig.seed,
        max_objects_per_image: int | None = AuditConfig.max_objects_per_image,
        max_strips: int = 8,
        tolerance: float | None = AuditConfig.tolerance,
        engine: Engine = AuditConfig.engine,
        precision: Precision = AuditConfig.precision,
        trim: float = AuditConfig.trim,
        adapter: Callable[[LightningModule], Detector] = resolve_adapter,
        drift: bool = True,
        reference: str | Path | None = None,
        reseeded_images: int = 2,
        save_records: bool = False,
        on_error: OnError = "warn",
    ) -> None:
        """See the class for the arguments."""
        check_arguments(on_error, drift, reference)
        check_counts(max_strips=max_strips, reseeded_images=reseeded_images)
        self.config = AuditConfig(
            explainer=explainer, explainer_settings=explainer_settings, target=target, n_samples=n_samples, sigma=sigma,
            match_iou=match_iou, pair_iou=pair_iou, score_threshold=score_threshold, blur_sigma=blur_sigma,
            threshold=threshold, near_threshold=near_threshold, near_margin=near_margin, occlusion=occlusion,
            sufficiency_margin=sufficiency_margin, necessity_margin=necessity_margin, seed=seed, trim=trim,
            max_objects_per_image=max_objects_per_image, tolerance=tolerance, engine=engine, precision=precision,
        )  # fmt: skip
        self.audit_samples = audit_samples
        self.adapter = adapter
        self.on_error = on_error
        self.n_validations = self.n_audits = self.n_failed = 0
        self.seconds = 0.0  # spent auditing by this process since it began
        self.last: dict[str, float] = {}  # what the last audit logged, by name
        self.iof = IntersectionOverForeground(blur_sigma, threshold, near_threshold, near_margin, sync_on_compute=False)
        """Values of the last audit, of all processes: ``iof.per_object()`` has those of each object."""
        self._audit = DistributedAudit(
            self.config,
            max_strips,
            reseeded_images=reseeded_images * drift,
            keep_maps=drift or save_records,
            keep_strips=save_records,
        )
        self._drift = DriftLog(enabled=drift, reseeded=reseeded_images > 0, reference=reference)
        self._dashboard = Dashboard()
        self._notice = EngineNotice(self.config)
        self._records = RecordWriter(enabled=save_records)
        self._weights = ValidatedWeights()
        self._audit_set: list[AuditSample] = []
        self._cadence, self._logged = Cadence(every_n_validations, max_share), False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the Trainer and take the audit set, so that mistakes show before training begins."""
        if stage == "predict":
            return
        check_trainer(trainer, self, fitting=stage == "fit")
        self._audit_set, sha256, masks = audit_set_of(trainer, self.audit_samples)
        audited_with = fingerprint(sha256, self.config, masks)
        self._drift.begin(audited_with)
        self._records.begin(audited_with)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the detector once before training, so that a module without one is refused at once."""
        with self._detector(pl_module):
            pass
        self._cadence.begin_fit()
        if self._cadence.leaves_out:
            names = {*self._scalars(AuditResult()), "audit/seconds", "audit/n_failed"}
            let_monitors_wait(trainer, names, self._cadence)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Take back what the last audit logged, unless the next validation logs it again: the weights change now."""
        if self._logged and self._cadence.leaves_out:
            forget(trainer, self.last)
        self._logged = False

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        """Remember the weights of the first batch."""
        self._weights.see(pl_module, *batch[1:])

    on_test_batch_start = on_validation_batch_start  # type: ignore[assignment] # all by position

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit, if this validation's turn has come."""
        if trainer.sanity_checking:
            return
        if trainer.state.fn != TrainerFn.FITTING:
            self._audit_and_log(trainer, pl_module)
            return
        if self._cadence.has_come(trainer, self.n_validations):
            self._audit_and_log(trainer, pl_module)
            self._cadence.pay(self.last["audit/seconds"])
        self.n_validations += 1
        self.log_dict(self._cadence.scalars())  # type: ignore[attr-defined] # Lightning attaches it

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the record, now that the module's own values are logged, too."""
        write, consequence = partial(self._records.write, trainer), "Its values are logged, its record is not written."
        self.n_failed += not try_or_report(write, self.on_error, trainer.global_step, consequence)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit."""
        self._audit_and_log(trainer, pl_module)

    on_test_end = on_validation_end

    @property
    def state_key(self) -> str:
        """Tells this callback's state from that of another one: by its cadence, and by all that its maps depend on."""
        settings = settings_in_state_key(self.config.measured)
        return self._generate_state_key(every_n_validations=self._cadence.every_n_validations, **settings)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to keep the cadence and the drift."""
        counts = {"n_validations": self.n_validations, "n_failed": self.n_failed}
        return counts | {"drift": self._drift.state_dict(), "cadence": self._cadence.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the run that is resumed."""
        self.n_validations = state_dict["n_validations"]
        self.n_failed = state_dict["n_failed"]
        self._cadence.load_state_dict(state_dict.get("cadence", {}))
        if "drift" in state_dict:  # a checkpoint from before it was measured has none
            self._drift.load_state_dict(state_dict["drift"])

    @contextmanager
    def _detector(self, module: LightningModule) -> Iterator[Detector]:
        with isolated(module):  # an adapter may put hooks on the module
            detector = self.adapter(module)
            self._notice.log_once(detector)
            self._records.of_detector = detector_fingerprint(detector)
            yield detector

    def _audit_and_log(self, trainer: Trainer, module: LightningModule) -> None:
        started, weights = time.perf_counter(), self._weights.describe(trainer, module)
        fast_dev_run: bool = trainer.fast_dev_run  # type: ignore[attr-defined] # set by another object
        samples, audit = self._audit_set, self._audit
        if fast_dev_run:
            samples, audit = samples[:1], audit.for_fast_dev_run()
        self._records.keep(None)
        try:
            result = audit.run(samples, trainer, module.device, lambda: self._detector(module))
            scalars = self._scalars(result)
        except Exception as error:
            self.n_failed += 1
            report_failure(self.on_error, trainer.global_step, "Its values are logged as NaN.", error)
            scalars = dict.fromkeys(self._scalars(AuditResult()), math.nan)
        else:
            show = partial(self._dashboard.log, trainer, result, scalars, self._drift.lost(result.maps))
            try_or_report(show, self.on_error, trainer.global_step, "Its numbers are logged, its pictures are not.")
            if not fast_dev_run:
                if result.why_few is not None:
                    rank_zero_warn(f"The ODSmoothGrad audit at step {trainer.global_step}: {result.why_few}")
                self._drift.advance(result.maps, len(result.rows))
                self._records.keep(result, weights)
        scalars |= {"audit/seconds": time.perf_counter() - started, "audit/n_failed": float(self.n_failed)}
        self.seconds += scalars["audit/seconds"]
        self.n_audits += 1
        self.last, self._logged = scalars, True
        self.log_dict(scalars)  # type: ignore[attr-defined] # Lightning attaches it to every callback

    def _scalars(self, result: AuditResult) -> dict[str, float]:
        return audit_scalars(result, self.iof, self.config) | self._drift.scalars(result.maps, result.reseeded)
