import argparse
import errno
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
import yaml
from helpers.runs import EVERY_TAG, read_events
from lightning.fabric.utilities.exceptions import MisconfigurationException

from odsg_lightning import cli
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.cli import main
from odsg_lightning.config_files import config_names, config_path
from odsg_lightning.demo import run as demo
from odsg_lightning.demo.shapes import ShapesDataset, make_shapes
from odsg_lightning.errors import (
    BrokenInputError,
    DiskError,
    MissingDependencyError,
    MissingFileError,
    UserInputError,
)
from odsg_lightning.metrics.iof import intersection_over_foreground
from odsg_lightning.training.ckpt_path import require_checkpoint

COMPONENTS = ["odsg_lightning", "Python", "torch", "torchvision", "lightning", "torchmetrics"]
COMPONENTS += ["pycocotools", "tensorboard", "numpy", "detectron2"]


def in_fresh_python(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", f"import sys; from odsg_lightning.cli import main; {code}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesDataset:
    return make_shapes(tmp_path_factory.mktemp("cli") / "shapes", n_train=8, n_val=4, seed=3)


def settings(shapes: ShapesDataset, folder: Path) -> dict:
    """What a user writes: two steps of the tiny RetinaNet, everything that has a class given by its path."""
    return {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 2,
            "val_check_interval": 2,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {
                "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
                "init_args": {"save_dir": str(folder), "name": "logs", "version": 0},
            },
            "callbacks": [
                {"class_path": "odsg_lightning.ODSmoothGradCallback", "init_args": {"n_samples": 1}},
                {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"},
            ],
        },
        "model": {
            "config": "retinanet_tiny",
            "num_classes": "auto",
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}},
            "lr_scheduler": {
                "class_path": "torch.optim.lr_scheduler.StepLR",
                "init_args": {"step_size": 1, "gamma": 0.5},
            },
        },
        "data": {
            **{name: str(path) for name, path in vars(shapes).items()},
            "batch_size": 2,
            "min_size": [128],
            "min_size_eval": 128,
            "num_workers": 0,
            "audit_images": 1,
        },
    }


def write(values: dict, folder: Path) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


# ---- help, versions, what stays unloaded ----


def test_version_names_every_component_on_a_line(capsys):
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == COMPONENTS
    assert lines[COMPONENTS.index("torch")] == f"torch {torch.__version__.split('+')[0]}"
    assert "compiled operators" in lines[COMPONENTS.index("detectron2")]


def test_version_says_what_is_not_installed(capsys, monkeypatch):
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [f"{name} not installed" for name in COMPONENTS[2:]]


@pytest.mark.parametrize(("files", "found"), [(["_C.py"], "with"), ([], "without")])
def test_version_knows_a_source_tree_and_compiled_operators(files, found, tmp_path, capsys, monkeypatch):
    package = tmp_path / "detectron2"
    package.mkdir()
    for name in ["__init__.py", *files]:
        (package / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)

    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    main(["--version"])
    assert f"detectron2 of unknown version, {found} compiled operators" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_heavy_packages_stay_unloaded(argument):
    heavy = "[name for name in ('torch', 'lightning', 'detectron2', 'numpy') if name in sys.modules]"
    result = in_fresh_python(f"main([{argument!r}]); print({heavy})")
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
    # The same words do see torch once it is loaded.
    loaded = in_fresh_python(f"import torch; print({heavy})")
    assert "torch" in loaded.stdout


def test_help_names_every_subcommand(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("fit", "validate", "test", "predict", "demo"):
        assert f"\n    {name} " in text


def test_help_of_a_lightning_subcommand_names_the_programme_and_our_arguments(capsys):
    assert main(["fit", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: odsg ")
    for argument in ("--model.weights", "--data.audit_images", "--trainer.max_steps", "--ckpt_path"):
        assert argument in text
    assert "COCO JSON file of the training set" in text  # our own docstring


def test_the_entry_point_is_installed():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="odsg")
    assert entry.load() is main


# ---- wrong arguments ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "odsg: error: the following arguments are required: <subcommand>"),
        (["fitt"], "odsg: error: argument <subcommand>: invalid choice: 'fitt'"),
        (["demo", "--detector", "yolo"], "odsg demo: error: argument --detector: invalid choice: 'yolo'"),
        (["demo", "--engine", "fast"], "odsg demo: error: argument --engine: invalid choice: 'fast'"),
        (["demo", "--seed", "x"], "odsg demo: error: argument --seed: invalid int value: 'x'"),
        (["fit", "--model.confg", "retinanet_tiny"], "odsg: error: unrecognized arguments: --model.confg"),
        (["fit", "--trainer.max_steps", "many"], 'odsg: error: Parser key "trainer.max_steps"'),
    ],
)
def test_wrong_arguments_end_with_2(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) < 12  # not Lightning's two screens of usage


def _set(values: dict, dotted: str, value: object) -> dict:
    *path, last = dotted.split(".")
    for part in path:
        values = values[part]
    values[last] = value
    return values


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainer.max_stepz", 2, "max_stepz"),
        ("model.config", "retinanet_R_51", "one of the names"),
        ("model.overrides", {"SOLVER.BASE_RL": 1.0}, "Did you mean 'SOLVER.BASE_LR'"),
        ("model.optimizer", {"class_path": "torch.optim.AdamX"}, "AdamX"),
        ("trainer.callbacks", [{"class_path": "odsg_lightning.ODSmothGradCallback"}], "ODSmothGradCallback"),
        (
            "trainer.callbacks",
            [{"class_path": "odsg_lightning.ODSmoothGradCallback", "init_args": {"max_strips": -1}}],
            "Expected argument `max_strips` to be 0 or more, but got -1",
        ),
        (
            "trainer.callbacks",
            [{"class_path": "odsg_lightning.ODSmoothGradCallback", "init_args": {"engine": "fast"}}],
            "fast",
        ),
        (
            "trainer.callbacks",
            [{"class_path": "odsg_lightning.ODSmoothGradCallback", "init_args": {"tolerance": 2.0}}],
            "Expected argument `tolerance` to be None or between 0 and 1, but got 2.0",
        ),
        (
            "trainer.callbacks",
            [{"class_path": "odsg_lightning.ODSmoothGradCallback", "init_args": {"samples": 3}}],
            "samples",
        ),
        (
            "trainer.callbacks",
            {"class_path": "odsg_lightning.ODSmoothGradCallback", "init_args": {"max_strips": -1}},
            "Expected argument `max_strips` to be 0 or more, but got -1",
        ),
        (
            "trainer.callbacks",
            [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"save_top_k": -2}}],
            "Invalid value for save_top_k=-2",
        ),
        ("trainer.val_check_interval", 2.5, "val_check_interval"),
        ("data.batch_size", 0, "Expected batch_size to be an integer of at least 1, but got 0"),
    ],
)
def test_mistakes_in_the_file_end_with_2_and_are_named(key, value, message, shapes, tmp_path, capsys):
    values = settings(shapes, tmp_path)
    _set(values, key, value)
    assert main(["fit", "--config", write(values, tmp_path)]) == 2
    _said_in_few_words(capsys, message)


def _said_in_few_words(capsys, message: str) -> None:
    error = capsys.readouterr().err
    assert "odsg: error: " in error
    assert message in error
    assert "ODSG_DEBUG=1" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("data.train_annotations", "train.json"),
        ("data.val_annotations", "val.json"),
        ("data.train_images", "train"),
        ("data.val_images", "val"),
        ("model.weights", "model.pkl"),
    ],
)
def test_input_files_that_are_missing_end_with_3_and_are_named(key, name, shapes, tmp_path, capsys):
    values = settings(shapes, tmp_path)
    _set(values, key, f"/nowhere/{name}")
    assert main(["fit", "--config", write(values, tmp_path)]) == 3
    _said_in_few_words(capsys, f"/nowhere/{name}")


@pytest.mark.parametrize("entry", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_that_is_missing_ends_with_3_before_anything_is_read(entry, shapes, tmp_path, capsys):
    values = settings(shapes, tmp_path)
    _set(values, "data.val_annotations", "/nowhere/val.json")
    assert main([entry, "--config", write(values, tmp_path), "--ckpt_path", "/nowhere/a.ckpt"]) == 3
    _said_in_few_words(capsys, "Expected a checkpoint at /nowhere/a.ckpt, but No such file or directory")


@pytest.mark.parametrize("path", [None, "best", "last", "hpc", "registry:name", "s3://bucket/a.ckpt"])
def test_what_lightning_finds_by_itself_is_left_to_it(path):
    require_checkpoint(path, resume=True, trust=False)


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"garbage", 3, "cannot be read as one"),
        ({"model": {}}, 3, "a checkpoint that Lightning wrote, but it is another one"),
        ({"state_dict": {}, "pytorch-lightning_version": "2"}, 2, "it holds weights only"),
        ({"state_dict": {}, "callbacks": Path("x")}, 3, "pathlib."),
        ({"state_dict": {}, "pytorch-lightning_version": "2", "hyper_parameters": [1]}, 3, "but it is another one"),
        ({"state_dict": {}, "pytorch-lightning_version": "2", "optimizer_states": [], "loops": {}}, 3, "to fill"),
    ],
)
def test_a_checkpoint_that_no_training_can_go_on_from_ends_in_one_line(
    content, code, message, shapes, tmp_path, capsys
):
    checkpoint = tmp_path / "a.ckpt"
    checkpoint.write_bytes(content) if isinstance(content, bytes) else torch.save(content, checkpoint)
    assert (
        main(["fit", "--config", write(settings(shapes, tmp_path), tmp_path), "--ckpt_path", str(checkpoint)]) == code
    )
    _said_in_few_words(capsys, message)


def test_the_configuration_file_itself_is_missing(capsys):
    assert main(["fit", "--config", "no_such.yaml"]) == 2
    assert "no_such.yaml" in capsys.readouterr().err


def test_without_detectron2_the_message_says_how_to_install_it():
    result = in_fresh_python("sys.modules['detectron2'] = None; sys.exit(main(['fit', '--help']))")
    assert result.returncode == 2
    assert "odsg: error: Detectron2 is not installed" in result.stderr
    assert "Traceback" not in result.stderr


# ---- exceptions and exit codes ----


def _demo_that(monkeypatch, action):
    monkeypatch.setattr(demo, "run_demo", action)
    return lambda *arguments: main(["demo", *arguments])


def raising(error: BaseException):
    def action(**_):
        raise error

    return action


def test_demo_gets_its_arguments_and_gives_the_exit_code(monkeypatch):
    seen = []
    run = _demo_that(monkeypatch, lambda **options: seen.append(options) or 1)
    assert run() == 1
    assert run("--detector", "faster-rcnn", "--output", "here", "--seed", "7", "--engine", "cut") == 1
    assert seen == [
        {"detector": "retinanet", "output": Path("runs/demo"), "seed": 0, "engine": "auto"},
        {"detector": "faster-rcnn", "output": Path("here"), "seed": 7, "engine": "cut"},
    ]


def test_a_message_cannot_command_the_terminal(tmp_path, capsys):
    assert main(["report", str(tmp_path / "\x1b[2J.json"), "-o", str(tmp_path / "a.html")]) == 3
    said = capsys.readouterr().err
    assert "Expected an audit record at" in said
    assert "\x1b" not in said


TOLD = [
    (UserInputError("a number out of range"), 2),
    (MissingDependencyError("no such package"), 2),
    (MisconfigurationException("two audits"), 2),
    (argparse.ArgumentError(None, "an argument"), 2),
    (BrokenInputError("half a file"), 3),
    (MissingFileError("no such file"), 3),
    (DiskError("the disk is full"), 74),
    (OSError(errno.ENOSPC, "No space left on device"), 74),
    (FileNotFoundError("what nobody has checked"), 74),
]


def named(value: object) -> str:
    return type(value).__name__ if isinstance(value, BaseException) else str(value)


@pytest.mark.parametrize(("error", "code"), TOLD, ids=named)
def test_the_class_of_an_exception_decides_and_its_message_is_all_that_is_said(error, code, monkeypatch, capsys):
    monkeypatch.delenv("ODSG_DEBUG", raising=False)
    assert _demo_that(monkeypatch, raising(error))() == code
    assert capsys.readouterr().err == f"odsg: error: {error}\n(ODSG_DEBUG=1 shows where it was raised.)\n"


def test_settings_out_of_range_are_a_mistake_of_the_user(monkeypatch, capsys):
    assert _demo_that(monkeypatch, lambda **_: AuditConfig(n_samples=0))() == 2
    message = "Expected argument `n_samples` to be an integer of at least 1, but got 0."
    assert capsys.readouterr().err == f"odsg: error: {message}\n(ODSG_DEBUG=1 shows where it was raised.)\n"


FAULTS = [
    raising(RuntimeError("a fault")),
    raising(KeyError("a fault")),
    raising(ValueError("a fault deep in some library")),
    lambda **_: intersection_over_foreground(torch.zeros(1), torch.zeros(1)),  # a ValueError of this package
    lambda **_: {}["a fault"],
]


@pytest.mark.parametrize("action", FAULTS)
def test_a_fault_of_the_program_ends_with_70_its_traceback_and_how_to_report_it(action, monkeypatch, capsys):
    monkeypatch.delenv("ODSG_DEBUG", raising=False)
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each of its own kind
        action()
    assert _demo_that(monkeypatch, action)() == 70
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):\n")
    assert f"\n{type(raised.value).__name__}: {raised.value}\n" in said
    assert said.splitlines()[-1] == (
        "odsg: this should not have happened. Please report it, with the lines above and the output of "
        "`odsg --version`: see CONTRIBUTING.md."
    )


def test_a_traceback_cannot_command_the_terminal(monkeypatch, capsys):
    assert _demo_that(monkeypatch, raising(RuntimeError("\x1b[2J")))() == 70
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [*(error for error, _ in TOLD), RuntimeError("a fault")], ids=named)
def test_all_are_raised_when_debugging(error, monkeypatch):
    monkeypatch.setenv("ODSG_DEBUG", "1")
    with pytest.raises(type(error), match=re.escape(str(error))) as raised:
        _demo_that(monkeypatch, raising(error))()
    assert raised.value is error


def lightning_after_ctrl_c(**_):
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (raising(KeyboardInterrupt()), 130),
        (lightning_after_ctrl_c, 130),
        (raising(SystemExit(1)), 1),
        (raising(SystemExit(None)), 0),
    ],
)
def test_exit_codes(action, code, monkeypatch):
    assert _demo_that(monkeypatch, action)() == code


def test_a_program_that_is_ended_with_a_message_did_not_find_a_regression(monkeypatch, capsys):
    assert _demo_that(monkeypatch, raising(SystemExit("why")))() == 70  # Python's own code for it, 1, is the gate's
    assert capsys.readouterr().err == "why\n"


# ---- bare names ----


def test_bare_names_become_paths_and_files_go_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(config_path("training/retinanet_R_50_FPN"))
    name = "retinanet_R_50_FPN"
    given = ["fit", "--config", name, f"--config={name}", "-c", name, "--model.config", name, "--config", "other.yaml"]
    want = ["fit", "--config", path, f"--config={path}", "-c", path, "--model.config", name, "--config", "other.yaml"]
    assert cli.lightning._with_packaged_configs(given) == want
    Path(name).touch()
    assert cli.lightning._with_packaged_configs(given) == given


# ---- the YAML files of the project ----


@pytest.mark.parametrize("name", config_names())
def test_every_yaml_file_parses(name):
    values = yaml.safe_load(config_path(name).read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    assert values


@pytest.mark.parametrize("name", config_names("training"))
def test_every_training_configuration_is_accepted(name, capsys):
    # --print_config parses everything: keys, types and class paths.
    assert main(["fit", f"--config={Path(name).name}", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert [callback["class_path"].rsplit(".", 1)[1] for callback in printed["trainer"]["callbacks"]] == [
        "ODSmoothGradCallback",
        "ModelCheckpoint",
        "LearningRateMonitor",
    ]
    assert printed["model"]["config"] == Path(name).name
    solver = printed["model"]["overrides"]["SOLVER"]
    assert solver["MAX_ITER"] == printed["trainer"]["max_steps"]
    assert printed["model"]["weights"] is None


def test_engine_precision_trim_and_tolerance_can_be_given_in_the_file(shapes, tmp_path, capsys):
    given = {"engine": "cut", "precision": "bf16", "trim": 0.001, "tolerance": 0.01}
    callback = {"class_path": "odsg_lightning.ODSmoothGradCallback", "init_args": given}
    values = settings(shapes, tmp_path)
    values["trainer"]["callbacks"] = [callback]
    assert main(["fit", "--config", write(values, tmp_path), "--print_config"]) == 0
    (printed,) = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    assert printed["init_args"].items() >= given.items()


def test_engine_of_the_last_callback_can_be_given_on_the_command_line(shapes, tmp_path, capsys):
    values = settings(shapes, tmp_path)
    values["trainer"]["callbacks"] = values["trainer"]["callbacks"][:1]
    config = write(values, tmp_path)
    assert main(["fit", "--config", config, "--trainer.callbacks.engine=cut", "--print_config"]) == 0
    (printed,) = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    assert (printed["init_args"]["engine"], printed["init_args"]["n_samples"]) == ("cut", 1)


# ---- real runs ----


@pytest.fixture(scope="module")
def fitted(shapes: ShapesDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished `odsg fit`."""
    folder = tmp_path_factory.mktemp("fitted")
    with (folder / "printed.txt").open("w") as printed, redirect_stdout(printed):
        assert main(["fit", "--config", write(settings(shapes, folder), folder)]) == 0
    return folder


def test_fit_trains_audits_and_logs(fitted):
    events = read_events(fitted)
    logged = set(events.Tags()["scalars"])
    assert logged >= EVERY_TAG
    assert {"val/map", "train/loss"} <= logged
    assert events.Scalars("audit/n_objects")[0].value > 0
    assert events.Scalars("audit/n_failed")[0].value == 0


def test_fit_ends_as_the_demonstration_does(fitted):
    printed = (fitted / "printed.txt").read_text()
    for words in ("box mean", "AP50", "sufficiency", "recall", "seconds training", "in 1 audits"):
        assert words in printed
    (checkpoint,) = fitted.rglob("*.ckpt")
    assert printed.splitlines()[-4:] == [
        f"Checkpoint: {checkpoint}",
        f"Logs: {fitted / 'logs' / 'version_0'}",
        "Look at the curves and the maps:",
        f"  tensorboard --logdir {fitted / 'logs'} --samples_per_plugin images=200",
    ]


def test_fit_ended_by_sigterm_says_so_and_leaves_nothing_half_written(shapes, tmp_path):
    values = settings(shapes, tmp_path)
    values["trainer"] |= {"max_steps": 500, "callbacks": [{"class_path": "helpers.signals.TerminatesAtStep"}]}
    assert main(["fit", "--config", write(values, tmp_path)]) == 143
    assert [path for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".ckpt")] == []
    (saved,) = tmp_path.rglob("config.yaml")
    assert yaml.safe_load(saved.read_text())["trainer"]["max_steps"] == 500


def test_fit_uses_the_optimizer_and_the_schedule_of_the_file(fitted):
    rates = [event.value for event in read_events(fitted).Scalars("lr-AdamW")]
    assert rates == pytest.approx([0.003, 0.0015])


def test_fit_saves_a_configuration_that_runs_again_in_the_same_folder(fitted):
    saved = fitted / "logs" / "version_0" / "config.yaml"
    values = yaml.safe_load(saved.read_text())
    assert values["model"]["optimizer"]["init_args"]["lr"] == 0.003
    assert main(["fit", "--config", str(saved), "--trainer.fast_dev_run=true"]) == 0
    assert main(["validate", "--config", str(saved)]) == 0  # writes config.yaml again


def test_validate_and_predict_a_checkpoint(fitted, shapes, tmp_path):
    (checkpoint,) = fitted.rglob("*.ckpt")
    config = write(settings(shapes, tmp_path), tmp_path)
    assert main(["validate", "--config", config, "--ckpt_path", str(checkpoint)]) == 0
    ours, fits = read_events(tmp_path), read_events(fitted)
    for name in ("val/map", "audit/recall", "audit/n_objects"):
        assert ours.Scalars(name)[0].value == pytest.approx(fits.Scalars(name)[0].value)
    assert main(["predict", "--config", config, "--ckpt_path", str(checkpoint)]) == 0
