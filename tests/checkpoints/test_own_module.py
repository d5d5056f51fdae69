"""The checkpoint of a LightningModule of one's own, through ``odsg audit --module``."""

import sys

import numpy as np
import pytest
import torch
from helpers.coco_files import CocoFiles
from helpers.runs import trainer_with

from odsg_lightning.cli import main
from odsg_lightning.data.audit_set_choice import choose_audit_set
from odsg_lightning.records.audit_set import write_audit_set
from odsg_lightning.records.record import read_record

CODE = '''
import torch
from lightning.pytorch import LightningModule
from odsg_lightning.types import Detections

class Plain(LightningModule):
    """Finds one box, whose numbers depend on all pixels, of each of its classes."""

    def __init__(self, start, width=10.0, names=None):
        super().__init__()
        self.save_hyperparameters()
        self.category_names = names
        self.layer = torch.nn.Linear(1, 1)

    def detect(self, images):
        found = []
        for image in images:
            bias = 1e-7 * image.sum() + 0 * self.layer.weight.sum()
            box = torch.tensor([[2.0, 3.0, 2.0 + self.hparams.width, 13.0]], device=image.device) + bias
            found.append(Detections(box, bias.reshape(1) * 0 + 0.9, torch.tensor([self.hparams.start])))
        return found

class Breaking(Plain):
    def detect(self, images):
        raise KeyError("no such head")

class Wrong(Plain):
    def detect(self, images):
        return [{"boxes": []} for _ in images]

class Short(Plain):
    def detect(self, images):
        return []

class Blind(Plain):
    detect = None

class Unsaved(LightningModule):
    def __init__(self, start):
        super().__init__()

class Nested:
    class Inner(Plain):
        pass

not_a_class = 3
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    files = CocoFiles(tmp_path / "data").write()
    with pytest.warns(UserWarning, match="recommended"):
        chosen, _ = choose_audit_set(files.json, files.images_dir, count=2, min_size=60)
    write_audit_set(chosen, tmp_path / "set.json")
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    (tmp_path / "raising.py").write_text("raise OSError('no licence')\n")
    for name in ("mine", "broken", "raising"):
        sys.modules.pop(name, None)
    return tmp_path


def save(place, name="Plain", *args, change=lambda content: None, **settings):
    sys.path.insert(0, str(place))
    import mine

    trainer = trainer_with([])
    trainer.strategy.connect(getattr(mine, name)(*args, **settings))
    trainer.save_checkpoint(place / "own.ckpt")
    content = torch.load(place / "own.ckpt", weights_only=False)
    content["loss"] = np.float64(0.5)
    change(content)
    torch.save(content, place / "own.ckpt")
    sys.path.remove(str(place))
    sys.modules.pop("mine")


def audit(name, *more):
    command = ["audit", "own.ckpt", "--audit-set", "set.json", "-o", "out/r.json", "--n-samples", "1", "--no-maps"]
    return main([*command, *(["--module", name] if name else []), *more])


def test_it_is_audited(place, capsys):
    save(place, "Plain", 0)
    assert audit("mine:Plain", "--trust") == 0
    assert "mine" in sys.modules
    assert len(read_record(place / "out" / "r.json").objects) == 2


def test_a_class_in_a_class_and_wrapped_weights(place):
    save(
        place,
        "Plain",
        0,
        change=lambda c: c.update(state_dict={f"_orig_mod.{n}": v for n, v in c["state_dict"].items()}),
    )
    assert audit("mine:Nested.Inner", "--trust") == 0


def test_names_of_its_classes_are_its_attribute(place, caplog):
    save(place, "Plain", 0, names=["no such", "category"])
    assert audit("mine:Plain", "--trust") == 3
    save(place, "Plain", 0)
    assert audit("mine:Plain", "--trust") == 0
    assert "does not say the names of its classes" in caplog.text


def test_without_the_option_the_message_names_both_ways(place, capsys):
    save(place, "Plain", 0)
    assert audit(None) == 3
    error = capsys.readouterr().err
    assert "--module my_pkg.my_module:MyModule --trust" in error
    assert "ODSmoothGradCallback(save_records=True)" in error


@pytest.mark.parametrize(
    ("name", "more", "code", "message"),
    [
        ("mine:Plain", [], 2, "Expected --trust with --module: mine:Plain is imported, and its code runs"),
        ("mine.Plain", ["--trust"], 2, "to be like my_pkg.my_module:MyModule, but got 'mine.Plain'"),
        ("mine:", ["--trust"], 2, "to be like my_pkg.my_module:MyModule"),
        ("../mine:Plain", ["--trust"], 2, "to be like my_pkg.my_module:MyModule"),
        ("no_such.pkg:Plain", ["--trust"], 2, "No module named 'no_such'. Run odsg where"),
        ("broken:Plain", ["--trust"], 2, "Expected to import broken, but No module named 'no_such_package'.\n"),
        ("raising:Plain", ["--trust"], 2, "it raised OSError: no licence"),
        ("mine:Plan", ["--trust"], 2, "to have 'Plan', but its LightningModules are ['Blind', 'Breaking'"),
        ("mine:not_a_class", ["--trust"], 2, "a subclass of LightningModule, but got 3"),
        ("mine:Nested", ["--trust"], 2, "a subclass of LightningModule, but got <class"),
        ("mine:Plain", ["--trust", "--config", "retinanet_tiny"], 2, "--module without --config"),
        ("mine:Breaking", ["--trust"], 3, "own.ckpt to run, but its forward pass of image id 1 raised KeyError"),
        ("mine:Wrong", ["--trust"], 3, "its detect() returned a dict for image id 1"),
        ("mine:Short", ["--trust"], 3, "its forward pass of image id 1 raised ValueError"),
        ("mine:Blind", ["--trust"], 2, "Expected mine:Blind to be a detector that can be audited."),
    ],
)  # fmt: skip
def test_each_way_it_can_go_wrong(place, capsys, name, more, code, message):
    save(place, "Plain", 0)
    assert audit(name, *more) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(place.rglob("*.json.*")) + list(place.rglob(".r.partial"))
    assert "--trust" in more or "mine" not in sys.modules  # not even imported


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda c: c.pop("hyper_parameters"), 2, "which holds none, but TypeError: "),
        (lambda c: c["hyper_parameters"].pop("start"), 2, "which holds ['names', 'width'], but TypeError: "),
        (lambda c: c["state_dict"].pop("layer.bias"), 3, "to fill mine:Plain, but RuntimeError: Error(s) in loading"),
        (lambda c: c["state_dict"]["layer.bias"].fill_(float("nan")), 3, "1 of the 1 values of layer.bias are NaN"),
        (lambda c: c.pop("state_dict"), 3, "a Lightning checkpoint, but it holds no 'state_dict'"),
    ],
)
def test_a_checkpoint_that_does_not_make_it(place, capsys, change, code, message):
    save(place, "Plain", 0, change=change)
    assert audit("mine:Plain", "--trust") == code
    assert message in capsys.readouterr().err
