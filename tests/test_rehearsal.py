"""What a file of unknown origin makes of its reader is found out in a process of its own."""

import os
import signal
import sys
import time

import pytest
import torch

from odsg_lightning import rehearsal
from odsg_lightning.checkpoints.detector import load_detector
from odsg_lightning.detectors.build import load_config, portable_config
from odsg_lightning.errors import BrokenInputError
from odsg_lightning.rehearsal import rehearse

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"x")
    return path


def bomb_of_tuples(path, depth=64):
    """A pickle of a few hundred bytes whose key takes 2**depth steps to hash: a tuple of twice the same tuple, ..."""
    path.write_bytes(b"\x80\x02}()q\x01" + b"h\x01h\x01\x86q\x01" * depth + b"tK\x01s.")
    assert path.stat().st_size < 645
    return path


@pytest.mark.parametrize(
    "work",
    [
        lambda: bytearray(10**11),
        lambda: torch.zeros(10**11),
        lambda: [0] * 10**11,
        lambda: os.kill(os.getpid(), signal.SIGKILL),
    ],
)
def test_work_that_takes_too_much_is_refused(file, work):
    with pytest.raises(BrokenInputError, match=r"a.pth, of 1 bytes, to be loaded in 5 s of processor time and 1.0 GiB"):
        rehearse(work, file)


def test_work_without_an_end_is_refused(file, monkeypatch):
    monkeypatch.setattr(rehearsal, "SECONDS", 1)
    deep = ()
    for _ in range(64):
        deep = (deep, deep)
    started = time.process_time()
    with pytest.raises(BrokenInputError, match="made to keep us busy"):
        rehearse(lambda: hash(deep), file)  # in C, where no signal handler of Python runs
    assert time.process_time() - started < 1


def test_work_that_waits_for_ever_is_refused(file, monkeypatch):
    monkeypatch.setattr(rehearsal, "SECONDS", 1)
    monkeypatch.setattr(rehearsal.signal, "alarm", lambda seconds, alarm=signal.alarm: alarm(seconds // 10))
    with pytest.raises(BrokenInputError):
        rehearse(lambda: time.sleep(60), file)


def test_work_that_ends_is_done_for_nothing(file, capfd):
    done = []

    def work():
        done.append(1)
        print("said", flush=True)
        raise ValueError("which shows when it is done in earnest")

    rehearse(work, file)
    assert done == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.pkl", "a.pth"])
def test_a_checkpoint_that_keeps_its_reader_busy_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(rehearsal, "SECONDS", 2)
    with pytest.raises(BrokenInputError, match="a key of more than 64 parts"):  # which is seen before it keeps anybody
        load_detector(bomb_of_tuples(tmp_path / name), "retinanet_tiny", 3)


@pytest.mark.parametrize(
    "change",
    [
        {"MODEL.RETINANET.NUM_CONVS": 10**9},
        {"MODEL.FPN.OUT_CHANNELS": 3 * 10**4},
        {"MODEL.FPN.OUT_CHANNELS": 10**9},
        {"MODEL.RETINANET.NUM_CLASSES": 10**9},
        {"MODEL.RETINANET.NUM_CONVS": -1},
    ],
)
def test_an_absurd_configuration_in_a_checkpoint_is_refused(tmp_path, monkeypatch, change):
    monkeypatch.setattr(rehearsal, "SECONDS", 2)
    config = portable_config(load_config("retinanet_tiny", change))
    content = {"hyper_parameters": {"config": config, "num_classes": None}, "state_dict": {}}
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(BrokenInputError, match=r"a\.ckpt"):
        load_detector(tmp_path / "a.ckpt")
