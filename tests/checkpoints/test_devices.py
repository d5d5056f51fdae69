"""``odsg audit --devices`` in real processes, started by Fabric, by torchrun and as Slurm does, on a small detector."""

import os
import subprocess
import sys

import pytest
from helpers.coco_files import CocoFiles, annotation_record, image_record
from helpers.ports import free_port
from helpers.runs import trainer_with

from odsg_lightning.cli import main
from odsg_lightning.data.audit_set_choice import choose_audit_set
from odsg_lightning.records.audit_set import write_audit_set
from odsg_lightning.records.record import read_record

pytestmark = pytest.mark.slow
IMAGES = 5
CODE = '''
import os, signal
import torch
from lightning.pytorch import LightningModule
from odsg_lightning.types import Detections

def rank():
    return os.environ.get("SLURM_PROCID") or os.environ.get("LOCAL_RANK") or "0"

class Mine(LightningModule):
    """Moves a box of each class by what a convolution sees, and does worse in one of the processes."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 10, 5, stride=3)
        self.images = 0

    def detect(self, images):
        self.images += not torch.is_grad_enabled()  # without occlusion, once an image
        if self.images == 2 and os.environ.get("KILLED") == rank():
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("BROKEN") == rank():
            raise KeyError("no such head")
        return [self.one(image) for image in images]

    def one(self, image):
        seen = torch.tanh(self.layer(image[None] / 255)).mean((0, 2, 3)).reshape(2, 5)
        boxes = torch.tensor([8.0, 12.0, 28.0, 28.0], device=image.device) + seen[:, :4]
        return Detections(boxes, torch.sigmoid(2 + seen[:, 4]), torch.arange(2, device=image.device))
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint, an audit set, and the record that one process writes."""
    folder = tmp_path_factory.mktemp("devices")
    images = [image_record(number) for number in range(1, IMAGES + 1)]
    annotations = [annotation_record(10 * number, number, category_id=3 + 4 * (number % 2)) for number in range(1, 6)]
    files = CocoFiles(folder / "data", images, annotations).write()
    with pytest.warns(UserWarning, match="recommended"):
        chosen, _ = choose_audit_set(files.json, files.images_dir, count=IMAGES, min_size=60)
    write_audit_set(chosen, folder / "set.json")
    (folder / "mine.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        sys.modules.pop("mine", None)
        import mine

        trainer = trainer_with([])
        trainer.strategy.connect(mine.Mine())
        trainer.save_checkpoint(folder / "own.ckpt")
        assert main(audit("one/r.json")) == 0
    assert not any(row.missed for row in read_record(folder / "one/r.json").objects)
    return folder


def audit(output, *more):
    asked = f"audit own.ckpt --audit-set set.json -o {output} --n-samples 3 --no-occlusion --trust --module mine:Mine"
    return [*asked.split(), *more]


def begin(place, command, **environment):
    names = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    names.pop("OMP_NUM_THREADS", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", *command], cwd=place, env=names, **pipes)


def ended(process):
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


def content(place, folder):
    return [(place / folder / name).read_bytes() for name in ("r.json", "r.maps.npz")]


def test_two_processes_write_the_bytes_of_one_and_speak_once(place):
    code, out, error = ended(begin(place, ["odsg_lightning.cli", *audit("two/r.json", "--devices", "2")]))
    assert code == 0, error
    assert content(place, "two") == content(place, "one")
    assert out.count("What own.ckpt looks at") == 1
    assert error.count("does not say the names of its classes") == 1
    assert error.count("--trust: own.ckpt is read") == 1
    assert "distributed" not in error
    assert sorted(path.name for path in (place / "two").iterdir()) == ["r.json", "r.maps.npz"]


def test_torchrun_writes_the_bytes_of_one_process(place):
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()), "-m"]
    code, out, error = ended(
        begin(place, [*torchrun, "odsg_lightning.cli", *audit("torchrun/r.json", "--devices", "2")])
    )
    assert code == 0, error
    assert content(place, "torchrun") == content(place, "one")
    assert out.count("What own.ckpt looks at") == 1
    assert error.count("does not say the names of its classes") == 1


def test_a_killed_process_loses_nothing_that_was_finished(place, monkeypatch, capfd):
    """One of three is killed at its second image; one process goes on from what is there."""
    code, out, error = ended(
        begin(place, ["odsg_lightning.cli", *audit("killed/r.json", "--devices", "3")], KILLED="1")
    )
    assert code == 74
    assert out == ""
    assert "Expected 3 processes to do the work, but process 1 terminated with signal SIGKILL" in error
    assert "Traceback" not in error
    finished = {path.name: path.read_bytes() for path in (place / "killed/.r.partial").glob("image_*.json")}
    assert 1 <= len(finished) < IMAGES
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    audited, real = [], "odsg_lightning.checkpoints.audit.load_sample"
    from odsg_lightning.checkpoints import audit as module

    load_sample = module.load_sample
    monkeypatch.setattr(real, lambda *its: audited.append(its) or load_sample(*its))
    assert main(audit("killed/r.json")) == 0
    assert len(audited) == IMAGES - len(finished)
    assert content(place, "killed") == content(place, "one")


def test_under_slurm_an_error_of_one_process_ends_all_and_is_told_once(place):
    slurm = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    slurm |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "SLURM_JOB_NAME": "audit", "BROKEN": "1"}
    command = ["odsg_lightning.cli", *audit("slurm/r.json", "--devices", "2")]
    processes = [begin(place, command, SLURM_PROCID=rank, SLURM_LOCALID=rank, **slurm) for rank in ("0", "1")]
    (first, out, error), (second, *silent) = map(ended, processes)
    assert (first, second) == (3, 3), error
    assert error.count("Expected the detector of own.ckpt to run, but its forward pass of image id") == 1
    assert out == ""
    assert silent == ["", ""]
