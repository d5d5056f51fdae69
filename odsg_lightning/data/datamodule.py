"""The Lightning data module: a COCO training set, a COCO validation set and the fixed audit set."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar, cast

from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from odsg_lightning.data import coco
from odsg_lightning.data.audit_samples import make_audit_samples
from odsg_lightning.data.audit_set_files import describe, load_sample, unchanged_dataset
from odsg_lightning.data.dataset import DetectionDataset, DetectionExample
from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.records.audit_set import AuditSet, read_audit_set
from odsg_lightning.types import AuditSample

Choice = TypeVar("Choice", bound=str)


class CocoDetectionDataModule(LightningDataModule):
    """COCO detection data for fine-tuning, validation and the audit.

    A batch is a list with one :class:`~odsg_lightning.data.dataset.DetectionExample` per image. Nothing is read
    before it is needed: a run that only validates does not need the training files.

    Args:
        train_annotations: COCO JSON file of the training set.
        train_images: folder that its file names are relative to.
        val_annotations: COCO JSON file of the validation set, from which the audit images are taken, too.
        val_images: folder that its file names are relative to.
        batch_size: images per process and step.
        min_size: lengths of the shorter edge in training, in pixels; one is drawn per image.
        max_size: upper limit of the longer edge, in pixels, in training and evaluation.
        min_size_eval: length of the shorter edge in evaluation and the audit, in pixels.
        flip: probability of a horizontal flip in training.
        num_workers: processes that load images, for each loader.
        audit_image_ids: ids of the audit images; None lets ``audit_seed`` choose.
        audit_images: how many audit images to choose.
        audit_seed: which ones.
        audit_masks: measure saliency against the ``"segmentation"``, or the filled ``"box"`` where there is none.
        audit_set: an audit set file (``odsg audit-set``), whose images must be among the validation images. It says
            which, at which size and against which masks; the other arguments do not count for the audit then.
        bad_records: ``"error"`` stops at unusable records; ``"skip"`` leaves them out with one warning. Faults of masks
            and boxes over the border are neither: see :func:`~odsg_lightning.data.coco.read_coco`.
        check_images: decode every image before training. A broken file is an error in any case; this finds it early.

    Raises:
        UserInputError: an argument is out of range.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from odsg_lightning.demo.shapes import make_shapes
        >>> folder = TemporaryDirectory()
        >>> shapes = make_shapes(folder.name, n_train=2, n_val=2, size=64)
        >>> data = CocoDetectionDataModule(
        ...     shapes.train_annotations,
        ...     shapes.train_images,
        ...     shapes.val_annotations,
        ...     shapes.val_images,
        ...     min_size_eval=64,
        ...     audit_image_ids=[1],
        ... )
        >>> data.category_names
        ['rectangle', 'triangle', 'star']
        >>> data.audit_samples()[0].image.shape
        torch.Size([3, 64, 64])
        >>> folder.cleanup()
    """

    def __init__(
        self,
        train_annotations: str | Path,
        train_images: str | Path,
        val_annotations: str | Path,
        val_images: str | Path,
        *,
        batch_size: int = 2,
        min_size: int | Sequence[int] = (640, 672, 704, 736, 768, 800),
        max_size: int = 1333,
        min_size_eval: int = 800,
        flip: float = 0.5,
        num_workers: int = 2,
        audit_image_ids: list[int] | None = None,
        audit_images: int = 16,
        audit_seed: int = 0,
        audit_masks: Literal["segmentation", "box"] = "segmentation",
        audit_set: str | Path | None = None,
        bad_records: Literal["error", "skip"] = "error",
        check_images: bool = True,
    ) -> None:
        """Store the arguments; no file is read here."""
        super().__init__()
        self.train_annotations, self.train_images = Path(train_annotations), Path(train_images)
        self.val_annotations, self.val_images = Path(val_annotations), Path(val_images)
        self.batch_size = _at_least("batch_size", batch_size, 1)
        self.min_size = (min_size,) if isinstance(min_size, int) else tuple(min_size)
        if not self.min_size:
            raise UserInputError("Expected min_size to name at least one length, but it is empty.")
        for length in self.min_size:
            _at_least("min_size", length, 1)
        self.max_size = _at_least("max_size", max_size, 1)
        self.min_size_eval = _at_least("min_size_eval", min_size_eval, 1)
        if not 0 <= flip <= 1:
            raise UserInputError(f"Expected flip to be a probability from 0 to 1, but got {flip}.")
        self.flip = flip
        self.num_workers = _at_least("num_workers", num_workers, 0)
        self.audit_image_ids = audit_image_ids
        self.audit_images = _at_least("audit_images", audit_images, 1)
        self.audit_seed = audit_seed
        self.audit_masks = _one_of("audit_masks", audit_masks, ("segmentation", "box"))
        self.audit_set = None if audit_set is None else Path(audit_set)
        self.bad_records = _one_of("bad_records", bad_records, ("error", "skip"))
        self.check_images = check_images
        self._audited: dict[int, list[int]] = {}

    def prepare_data(self) -> None:
        """Decode every image, in one process per machine.

        Raises:
            BrokenInputError: images are broken, or differ in size from their records.
        """
        if not self.check_images:
            return
        if self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING:
            coco.check_images(self._train)
        coco.check_images(self._val)

    def setup(self, stage: str | None = None) -> None:
        """Read and check the annotation files, once.

        Args:
            stage: ``"fit"`` or None reads both files; any other only that of the validation set.

        Raises:
            MissingFileError: a file or folder is missing.
            BrokenInputError: a record is unusable, the two files disagree on the categories, or there is nothing to
                train on.
        """
        _ = self.val_dataset
        if stage in ("fit", None):
            _ = self.train_dataset

    @property
    def num_classes(self) -> int:
        """Number of categories."""
        return len(self._val.category_ids)

    @property
    def category_names(self) -> list[str]:
        """Name of each class, by label."""
        return list(self._val.category_names)

    @property
    def category_ids(self) -> list[int]:
        """COCO category id of each class, by label."""
        return list(self._val.category_ids)

    def audit_samples(self) -> list[AuditSample]:
        """Return the fixed audit set, the same in every process and run; needs no ``setup``.

        Raises:
            BrokenInputError: no image is usable, or the files are not those that ``audit_set`` was chosen from.
            UserInputError: ``audit_image_ids`` names an image that is not usable.
        """
        if self.audit_set is not None:
            chosen, images = self._chosen
            samples = [load_sample(chosen, images, image) for image in images.images]
        else:
            samples = make_audit_samples(
                self._val,
                image_ids=self.audit_image_ids,
                count=self.audit_images,
                seed=self.audit_seed,
                masks=self.audit_masks,
                min_size=self.min_size_eval,
                max_size=self.max_size,
            )
        self._audited = {sample.image_id: list(sample.annotation_ids) for sample in samples}
        return samples

    def audit_set_sha256(self) -> str:
        """Return the hash of the audit set: of its files' content and of how they are shown to the detector.

        An audit of the same images by ``odsg audit`` has the same.
        """
        if self.audit_set is not None:
            return self._chosen[0].sha256
        if not self._audited:
            self.audit_samples()
        return describe(self._val, self._audited, self.audit_masks, self.min_size_eval, self.max_size).sha256

    def audit_set_masks(self) -> Literal["segmentation", "box"]:
        """Return what an object of the audit set is: its segmentation, or its filled box."""
        return self.audit_masks if self.audit_set is None else self._chosen[0].masks

    def train_dataloader(self) -> DataLoader[DetectionExample]:
        """Shuffled and augmented training images that have an object."""
        return self._loader(self.train_dataset, shuffle=True)

    def val_dataloader(self) -> DataLoader[DetectionExample]:
        """All validation images in ascending id, with ``target``."""
        return self._loader(self.val_dataset)

    def test_dataloader(self) -> DataLoader[DetectionExample]:
        """The validation images."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[DetectionExample]:
        """The validation images."""
        return self.val_dataloader()

    @cached_property
    def train_dataset(self) -> DetectionDataset:
        """The training images that have an object, read on first use."""
        dataset = DetectionDataset(
            self._train,
            min_sizes=self.min_size,
            max_size=self.max_size,
            flip=self.flip,
            training=True,
            masks=self._masks_needed,
        )
        if not len(dataset):
            raise BrokenInputError(
                f"Expected {self.train_annotations} to have an image with an object to train on, but each of its "
                f"{len(self._train.images)} images is empty or has crowd regions only."
            )
        return dataset

    @cached_property
    def val_dataset(self) -> DetectionDataset:
        """The validation images, read on first use."""
        return DetectionDataset(self._val, min_sizes=[self.min_size_eval], max_size=self.max_size, training=False)

    @cached_property
    def _train(self) -> coco.CocoDataset:
        masks = self._masks_needed
        train = coco.read_coco(
            self.train_annotations, self.train_images, bad_records=self.bad_records, segmentations=masks
        )
        coco.require_same_categories(train, self._val)
        if masks and not any(a.segmentation for image in train.images for a in image.annotations):
            raise UserInputError(
                f"Expected {self.train_annotations} to have segmentations, because the detector is trained on masks, "
                "but it has none that can be used. Give a file with segmentations, or set MODEL.MASK_ON to false."
            )
        return train

    @property
    def _masks_needed(self) -> bool:
        module = None if self.trainer is None else self.trainer.lightning_module
        return bool(getattr(module, "needs_masks", False))

    @cached_property
    def _val(self) -> coco.CocoDataset:
        return coco.read_coco(
            self.val_annotations,
            self.val_images,
            bad_records=self.bad_records,
            segmentations=self.audit_masks == "segmentation",
        )

    @cached_property
    def _chosen(self) -> tuple[AuditSet, coco.CocoDataset]:
        chosen = read_audit_set(cast(Path, self.audit_set))
        return chosen, unchanged_dataset(chosen, self.val_annotations, self.val_images)

    def _loader(self, dataset: DetectionDataset, *, shuffle: bool = False) -> DataLoader[DetectionExample]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=list,  # images differ in size: the model pads them
        )


def _at_least(name: str, value: int, minimum: int) -> int:
    if type(value) is not int or value < minimum:
        raise UserInputError(f"Expected {name} to be an integer of at least {minimum}, but got {value!r}.")
    return value


def _one_of(name: str, value: Choice, choices: Sequence[str]) -> Choice:
    if value not in choices:
        raise UserInputError(f"Expected {name} to be one of {list(choices)}, but got {value!r}.")
    return value
