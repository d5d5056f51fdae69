"""What works, by which packages there are; what does not fit; what is said of the machine."""

import math
from dataclasses import replace

import pytest

from odsg_lightning.doctor import diagnosis
from odsg_lightning.doctor.diagnosis import diagnose
from odsg_lightning.doctor.machine import machine_findings
from odsg_lightning.doctor.packages import LOGGERS, OPTIONAL, REQUIRED, Package, unmet_requirement

TORCH = Package("torch", "2.12.1+cu130", facts={"cuda_build": "13.0", "devices": [], "threads": 1})
ALL = {name: Package(name, "1.0") for name in (*REQUIRED, *OPTIONAL, *LOGGERS)}
ALL |= {"torch": TORCH, "torchvision": Package("torchvision", "0.27.1+cu130"), "rich": Package("rich", "13.0")}


@pytest.fixture
def of(monkeypatch):
    def diagnosed(**changed):
        monkeypatch.setattr(diagnosis, "find_packages", lambda names: {**ALL, **changed})
        monkeypatch.setattr(diagnosis, "unmet_requirement", lambda package: None)
        return diagnose()

    return diagnosed


def test_everything_works(of):
    found = of()
    assert found.works
    assert {finding.status for finding in found.features} == {"ok"}
    assert found.faults == ()
    assert found.features[-1].words == "tensorboard 1.0, wandb 1.0, mlflow 1.0, comet_ml 1.0, neptune 1.0; CSV."


@pytest.mark.parametrize("name", REQUIRED)
def test_without_what_is_required_the_main_job_does_not_work(of, name):
    for package in (Package(name), Package(name, "1.0", error="ImportError: no")):
        found = of(**{name: package})
        assert not found.works
        assert found.features[0].status == "broken"
        assert f"{name} ({'broken' if package.error else 'not installed'})" in found.features[0].words
        assert found.features[0].cure.startswith("python -m pip install ")


@pytest.mark.parametrize("name", OPTIONAL)
def test_an_optional_package_takes_its_feature_alone(of, name):
    absent, broken = of(**{name: Package(name)}), of(**{name: Package(name, "1.0", error="OSError: libx.so")})
    assert absent.works
    assert broken.works
    assert [(f.status, f.words) for f in absent.features if f.status != "ok"] == [
        ("absent", f"{name} is not installed.")
    ]
    (finding,) = (finding for finding in broken.features if finding.status != "ok")
    assert finding.words == f"{name} 1.0: OSError: libx.so"
    assert finding.cure
    assert [fault.part for fault in broken.faults] == [name]


def test_a_broken_logger_is_told_beside_those_that_work(of):
    found = of(wandb=Package("wandb", "1.0", error="ImportError: no"), mlflow=Package("mlflow")).features[-1]
    assert (found.status, found.words) == ("warning", "tensorboard 1.0, comet_ml 1.0, neptune 1.0; CSV.")
    assert found.cure == "python -m pip install --force-reinstall --no-deps wandb"


@pytest.mark.parametrize(
    ("torch", "vision", "told"),
    [
        ("2.4.0", "0.19.0", None),
        ("2.12.1", "0.27.0", None),
        ("2.12.1+cpu", "0.27.1", None),
        ("3.1.0", "0.50.0", None),  # nobody knows yet
        ("2.12.1", "0.26.0", "torch 2.12.1 belongs to torchvision 0.27, but 0.26.0 is installed."),
        ("2.1.0", "0.160.0", "torch 2.1.0 belongs to torchvision 0.16, but 0.160.0 is installed."),
        ("2.12.1+cpu", "0.27.1+cu130", "torch 2.12.1+cpu and torchvision 0.27.1+cu130 are of different builds."),
    ],
)
def test_pairs_of_torch_and_torchvision(of, torch, vision, told):
    faults = of(torch=replace(TORCH, version=torch), torchvision=Package("torchvision", vision)).faults
    assert [fault.words for fault in faults] == ([] if told is None else [told])
    wanted = f'python -m pip install "torchvision==0.{int(torch.split(".")[1]) + 15}.*"'
    assert [fault.cure for fault in faults] == ([] if told is None else [wanted])


def test_a_version_that_this_package_does_not_take(monkeypatch):
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["torch>=2.4,!=2.13.0", "pyyaml>=6"])
    assert unmet_requirement(Package("torch", "2.4.1+cpu")) is None
    assert unmet_requirement(Package("torch", "2.13.0")) == "!=2.13.0,>=2.4"
    assert unmet_requirement(Package("yaml", "5.4")) == ">=6"
    assert unmet_requirement(Package("rich", "1.0")) is None
    monkeypatch.setattr("importlib.metadata.requires", lambda name: 1 / 0)
    assert unmet_requirement(Package("torch", "0.1")) is None


# The machine ----------------------------------------------------------------------------------------------------------


def machine(torch=TORCH):
    return {found.part: (found.status, found.words, found.cure) for found in machine_findings(torch)}


@pytest.mark.parametrize(
    ("facts", "driver", "hidden", "status", "words"),
    [
        ({"devices": [{"name": "NVIDIA H100", "bytes": 80 * 2**30}]}, True, None, "ok", "NVIDIA H100, 80 GiB; torch"),
        ({}, False, None, "ok", "None on this machine (torch for CUDA 13.0)"),
        ({}, True, None, "warning", "There is one, but torch for CUDA 13.0 cannot use it."),
        ({}, True, "", "warning", "CUDA_VISIBLE_DEVICES='' hides it"),
        ({}, True, "-1", "warning", "CUDA_VISIBLE_DEVICES='-1' hides it"),
        ({"cuda_build": None}, False, None, "ok", "a build for the CPU. Audits run there"),
        ({"cuda_build": None}, True, None, "warning", "a build for the CPU. This machine has an NVIDIA GPU."),
    ],
)
def test_the_gpu_or_why_there_is_none(monkeypatch, facts, driver, hidden, status, words):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi" if driver else None)
    monkeypatch.setattr("pathlib.Path.exists", lambda path: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    found = machine(replace(TORCH, facts=TORCH.facts | facts))["GPU"]
    assert found[0] == status
    assert words in found[1]
    assert bool(found[2]) == (status == "warning")


def test_without_torch_the_machine_is_still_looked_at():
    found = machine(Package("torch"))
    assert found["GPU"][:2] == ("warning", "Cannot be told without torch.")
    assert found["disk"][0] in ("ok", "warning")


def test_threads_disk_and_folders(monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 2**30, "total": 64 * 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "999")
    found = machine(replace(TORCH, facts=TORCH.facts | {"threads": math.inf}))
    assert found["threads"][0] == found["disk"][0] == "warning"
    assert "OMP_NUM_THREADS 999" in found["threads"][1]
    assert "bus error" in found.get("shared memory", ("", "bus error"))[1]
    assert found["cache of downloaded weights"][0] == "warning"
    monkeypatch.setattr("tempfile.gettempdir", lambda: (_ for _ in ()).throw(FileNotFoundError()))
    assert machine()["folder for temporary files"][:2] == ("broken", "There is none.")
