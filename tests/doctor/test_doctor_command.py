"""`odsg doctor` on whole installations and broken ones, made of packages that do nothing, in a folder on the path."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from odsg_lightning.doctor.packages import LOGGERS, OPTIONAL, REQUIRED, find_packages

ROOT = Path(__file__).parents[2]
TORCH = """
__version__ = "2.12.1"
class cuda:
    device_count = staticmethod(lambda: 0)
class version:
    cuda = None
get_num_threads = lambda: 1
"""


@pytest.fixture
def fakes(tmp_path):
    """A folder of packages that can be imported in no time, and do nothing."""
    folder = tmp_path / "fakes"
    for name in {*REQUIRED, *OPTIONAL, *LOGGERS} - {"rich"}:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(TORCH if name == "torch" else "__version__ = '1.0'")
    (folder / "detectron2" / "modeling.py").touch()
    return folder


def doctor(fakes, *options, **environment):
    command = [sys.executable, "-P", "-m", "odsg_lightning.cli", "doctor", *options]
    path = os.pathsep.join([str(fakes), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=120, cwd=fakes.parent)


def breaks(fakes, **modules):
    for name, code in modules.items():
        (fakes / name / "__init__.py").write_text(code)


def test_what_is_there_works(fakes):
    breaks(fakes, transformers="print('{not ours')")
    done = doctor(fakes, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["works"] is True
    assert {name: package["error"] for name, package in told["packages"].items() if package["error"]} == {}
    assert {finding["status"] for finding in told["features"]} == {"ok"}
    assert told["packages"]["torch"]["cuda_build"] is None


def test_packages_that_break_at_import_are_told_with_their_errors(fakes):
    breaks(
        fakes,
        torchvision="raise RuntimeError('operator torchvision::nms does not exist\\nsecond line')",
        transformers="import sys; sys.exit(3)",
        rfdetr="import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        wandb="import no_such_dependency",
        globox="raise Exception",
        PIL="raise AttributeError('of another version')",
    )
    done = doctor(fakes, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    assert {name: package["error"] for name, package in told["packages"].items() if package["error"]} == {
        "torchvision": "RuntimeError: operator torchvision::nms does not exist",
        "transformers": "SystemExit: 3",
        "rfdetr": "its import ended Python, or did not end",
        "wandb": "ModuleNotFoundError: No module named 'no_such_dependency'",
        "globox": "Exception",
        "PIL": "AttributeError: of another version",
    }
    cures = {finding["part"]: finding["cure"] for finding in told["faults"]}
    vision = json.loads(done.stdout)["packages"]["torch"]["version"].split(".")[1]
    assert cures["torchvision"].endswith(f'--force-reinstall --no-deps "torchvision==0.{int(vision) + 15}.*"')


def test_what_is_missing_or_broken_for_the_table_does_not_keep_it_from_being_read(fakes):
    (fakes / "rich").mkdir()
    breaks(fakes, rich="raise ImportError('half an installation')", torch="raise OSError('libcudart.so.12')")
    done = doctor(fakes)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    assert "libcudart.so.12" in done.stdout
    assert "cure: python -m pip install --force-reinstall --no-deps rich; python -m" in done.stdout
    assert "Audits, gate and report do not work here" in done.stdout


def test_the_table_is_readable_at_80_columns_without_colours(fakes):
    breaks(fakes, rfdetr="raise ImportError('x' * 200)")
    done = doctor(fakes, COLUMNS="80", NO_COLOR="1", TERM="dumb")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if "│" in line or "─" in line) == 80
    assert "\x1b" not in done.stdout
    assert any("auditing RF-DETR" in line and "broken" in line for line in lines)
    assert "python -m pip install --force-reinstall" in done.stdout


def test_a_console_of_ascii_gets_its_table(fakes):
    done = doctor(fakes, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "What works here" in done.stdout


def test_a_package_that_is_not_there():
    found = find_packages(["json", "no_such_package", "json.no_such_part"])
    assert found["json"].works
    assert found["no_such_package"].version is None
    assert found["no_such_package"].error is None
    assert found["json.no_such_part"].version is None
