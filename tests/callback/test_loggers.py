"""What arrives in each logger, read back from what its real package wrote; nothing leaves the machine."""

import csv
import io
import json
import zipfile
from importlib import import_module

import numpy as np
import pytest
from helpers.both_packages import PACKAGES
from helpers.known_module import KnownModule, known_audit
from helpers.runs import read_events, trainer_with
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from PIL import Image

from odsg_lightning.callback.loggers import export_pictures, log_pictures
from odsg_lightning.callback.summary import WORST_COLUMNS

STRIPS = ["saliency/image_1/annotation_1", "saliency/image_1/annotation_2"]
ROWS = [["class 0", 1, 1, 0.95, 1, 1, 0, 1, 1], ["class 1", 1, 2, 0.97, 1, 1, 0, 1, 1]]
"""Both objects of KnownModule: its detections stand alone, and stand without the object."""


def fit(loggers, **settings):
    """One audit, at step 1."""
    audit = known_audit(**({"n_samples": 1, "drift": False, "on_error": "raise"} | settings))
    trainer_with([audit], logger=loggers, max_steps=2).fit(KnownModule())
    return audit


@pytest.fixture(params=PACKAGES)
def loggers(request):
    """Both packages' loggers."""
    pytest.importorskip(request.param)
    return import_module(f"{request.param}.loggers")


def is_strip(path):
    with Image.open(path) as picture:
        return picture.mode == "RGB" and picture.width > 300


def test_csv_has_the_scalars_and_files_beside_it_the_pictures(loggers, tmp_path):
    fit(loggers.CSVLogger(tmp_path, name="run"))
    folder = tmp_path / "run" / "version_0"
    with (folder / "metrics.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["iof/near"]]
    assert (float(row["iof/near"]), row["step"]) == (1, "1")
    assert sorted(folder.rglob("*.png")) == [folder / "strips" / tag / "step_000001.png" for tag in STRIPS]
    assert all(is_strip(path) for path in folder.rglob("*.png"))


def test_tensorboard_has_the_very_pictures(loggers, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    logger = loggers.TensorBoardLogger(tmp_path)
    log_pictures(Trainer(logger=logger, accelerator="cpu"), {"a/b": picture}, step=7)
    logger.finalize("success")
    (event,) = read_events(tmp_path).Images("a/b")
    assert (event.step, event.height, event.width) == (7, 40, 70)
    (path,) = export_pictures(tmp_path / "lightning_logs/version_0", tmp_path / "out")
    for source in (io.BytesIO(event.encoded_image_string), path):
        with Image.open(source) as read:
            assert (np.asarray(read) == picture).all()


def test_wandb_has_scalars_pictures_and_a_table(loggers, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    try:
        logger = loggers.WandbLogger(save_dir=tmp_path, offline=True)
        fit(logger)
        summary = logger.experiment.summary
        assert (summary["iof/near"], summary["trainer/global_step"]) == (1, 1)
        wandb.finish()
        (media,) = (tmp_path / "wandb").glob("offline-run-*/files/media")
        pictures = sorted((media / "images").rglob("*.png"))
        assert [path.parent.name for path in pictures] == ["image_1", "image_1"]
        assert all(is_strip(path) for path in pictures)
        (table,) = (media / "table").rglob("*.table.json")
        written = json.loads(table.read_text())
        assert (written["columns"], written["data"]) == (list(WORST_COLUMNS), ROWS)
    finally:
        wandb.teardown()
    assert not list(tmp_path.rglob("strips"))


def test_mlflow_has_scalars_pictures_and_a_table(loggers, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # since 3.7 it prefers a database, which needs SQLAlchemy
    logger = loggers.MLFlowLogger(tracking_uri=f"file:{tmp_path}/runs")
    fit(logger)
    history = logger.experiment.get_metric_history(logger.run_id, "iof/near")
    assert [(entry.step, entry.value) for entry in history] == [(1, 1)]
    (images,) = tmp_path.rglob("artifacts/images")
    pictures = sorted(images.glob("*.png"))
    assert [path.name.split("+")[:3] for path in pictures] == [[tag.replace("/", "~"), "step", "1"] for tag in STRIPS]
    assert all(is_strip(path) for path in pictures)
    table = json.loads((images.parent / "audit" / "worst_objects" / "step_000001.json").read_text())
    assert (table["columns"], table["data"]) == (list(WORST_COLUMNS), ROWS)


def test_comet_has_scalars_pictures_and_a_table(loggers, tmp_path, monkeypatch):
    pytest.importorskip("comet_ml")
    monkeypatch.setenv("COMET_START_ONLINE", "false")  # with online=False Lightning switches all logging off
    monkeypatch.setenv("COMET_INTERNAL_SENTRY_DSN", "")
    logger = loggers.CometLogger(api_key="none", offline_directory=str(tmp_path))
    fit(logger)
    logger.experiment.end()
    with zipfile.ZipFile(next(tmp_path.glob("*.zip"))) as archive:
        messages = [json.loads(line) for line in archive.read("messages.json").splitlines()]
        metrics = [m["payload"]["metric"] for m in messages if m["type"] == "metric_msg"]
        assert [(m["metricValue"], m["step"]) for m in metrics if m["metricName"] == "iof/near"] == [(1, 1)]
        files = [m["payload"] for m in messages if m["type"] == "file_upload"]
        tables = [archive.read(f["file_path"]).decode() for f in files if f["upload_type"] == "asset"]
    pictures = [f["additional_params"] for f in files if f["upload_type"] == "visualization"]
    assert [(f["figName"], f["step"]) for f in pictures] == [(tag, 1) for tag in STRIPS]
    (table,) = [list(csv.reader(text.splitlines())) for text in tables]
    assert table[0] == list(WORST_COLUMNS)
    assert [[row[0], *map(float, row[1:])] for row in table[1:]] == ROWS


class Elsewhere(Logger):
    """A logger of somebody else's, which writes nothing here."""

    name = version = "own"
    save_dir = "s3://bucket/run"

    def log_metrics(self, metrics, step=None): ...

    def log_hyperparams(self, *args, **kwargs): ...


class TakesPictures(Elsewhere):
    def __init__(self):
        super().__init__()
        self.pictures = []

    def log_image(self, key, images, step):
        self.pictures += [(key, step, image.shape[2]) for image in images]


def test_a_logger_with_log_image_gets_the_pictures(tmp_path):
    own = TakesPictures()
    fit([own, CSVLogger(tmp_path)])
    assert own.pictures == [(tag, 1, 3) for tag in STRIPS]


def test_there_are_no_files_where_a_logger_takes_pictures(tmp_path):
    fit([CSVLogger(tmp_path), TensorBoardLogger(tmp_path)])
    assert not list(tmp_path.rglob("*.png"))


def test_a_folder_elsewhere_costs_the_pictures_and_is_named():
    with pytest.warns(RuntimeWarning, match="its pictures are not") as said:
        audit = fit(Elsewhere(), on_error="warn")
    text = " ".join(str(warning.message) for warning in said)
    assert "Elsewhere takes no pictures, but got s3://bucket/run. Add a TensorBoardLogger" in text
    assert audit.last["iof/near"] == 1
