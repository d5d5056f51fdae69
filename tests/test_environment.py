"""What is said of the machine: the versions, and whether this is continuous integration."""

import importlib.metadata
import platform
import subprocess
import sys

import pytest

from odsg_lightning import __version__
from odsg_lightning.environment import DETECTRON2, cores, detectron2_build, in_ci, versions


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((no, False) for no in ("", " ", "0", "false", "False", "FALSE", "no", "NO", "off", "Off", " false ")),
        *((yes, True) for yes in ("1", "true", "True", "yes", "on", "github", "2", "00", "n")),
    ],
)
def test_ci_is_on_unless_a_word_says_no(monkeypatch, value, expected):
    monkeypatch.setenv("CI", value)
    assert in_ci() is expected


def test_without_the_variable_this_is_no_ci():
    assert in_ci() is False


# Versions -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch):
    """Lets these distributions alone be installed: name and version, or an error for damaged metadata."""

    def install(**distributions):
        def version(name):
            found = distributions.get(name.replace("-", "_"), importlib.metadata.PackageNotFoundError(name))
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(importlib.metadata, "version", version)

    return install


def test_versions_of_what_is_installed(installed):
    installed(numpy="1.2.3", torch="4.5+cpu", pillow=ValueError("damaged"))
    assert versions("numpy", "torch", "pillow", "scipy") == {
        "odsg_lightning": __version__,
        "python": platform.python_version(),
        "numpy": "1.2.3",
        "torch": "4.5+cpu",
    }
    assert versions().keys() == {"odsg_lightning", "python"}


@pytest.mark.parametrize("name", DETECTRON2)
def test_detectron2_is_found_under_each_of_its_names(installed, name):
    installed(**{name.replace("-", "_"): "0.6"})
    assert versions("detectron2")["detectron2"] == "0.6"


def test_the_official_detectron2_goes_before_the_others(installed):
    installed(**{name.replace("-", "_"): str(index) for index, name in enumerate(DETECTRON2)})
    assert versions("detectron2")["detectron2"] == "0"


def test_metadata_without_a_version_is_left_out(installed):
    """As after an installation that was interrupted."""
    installed(numpy=KeyError("Version"), detectron2=KeyError("Version"))
    assert versions("numpy", "detectron2").keys() == {"odsg_lightning", "python"}


# Detectron2 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def source_tree(tmp_path, monkeypatch):
    """A folder before all others on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


@pytest.mark.parametrize(("files", "compiled"), [(["__init__.py"], "without"), (["__init__.py", "_C.py"], "with")])
@pytest.mark.parametrize(
    ("distributions", "told"),
    [
        ({}, "of unknown version"),
        ({"detectron2": "0.6"}, "0.6 (detectron2)"),
        ({"detectron2_cdo": "0.5"}, "0.5 (detectron2-cdo)"),
        ({"detectron2": KeyError("Version"), "pb1_detectron2": "0.6"}, "0.6 (pb1-detectron2)"),
    ],
)
def test_which_detectron2_is_there(source_tree, installed, files, compiled, distributions, told):
    (source_tree / "detectron2").mkdir()
    for name in files:
        (source_tree / "detectron2" / name).write_text("raise AssertionError('nobody asked for an import')")
    installed(**distributions)
    assert detectron2_build() == f"{told}, {compiled} compiled operators"
    assert "detectron2" not in sys.modules


def test_no_detectron2_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert detectron2_build() == "not installed"


def test_nothing_heavy_is_loaded_to_find_out():
    heavy = "{'torch', 'lightning', 'detectron2', 'numpy', 'yaml'}"
    asked = "in_ci(); versions('torch'); detectron2_build()"
    code = f"import sys; from odsg_lightning.environment import *; {asked}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout == "set()\n"


def test_there_is_a_core():
    assert cores() >= 1
