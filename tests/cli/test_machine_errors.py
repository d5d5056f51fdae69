"""A full disk, a folder that may not be written to, no memory: one line and exit code 74, whatever the command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.records import as_baseline, make_record

from odsg_lightning.cli import main
from odsg_lightning.records.record import write_record

COMMANDS = {
    "gate --json": ["gate", "base.json", "same.json", "--json", "out/g.json"],
    "gate --junit": ["gate", "base.json", "same.json", "--junit", "out/g.xml"],
    "report": ["report", "same.json", "-o", "out/r.html"],
    "baseline accept": ["baseline", "accept", "same.json", "-o", "out/b.json", "--reason", "r"],
    "calibrate": ["calibrate", "same.json", "seed.json", "-o", "out/gate.yaml"],
}
LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
from odsg_lightning.cli import main
sys.exit(main(sys.argv[1:]))
"""
READ_ONLY = """
import builtins, errno, os, sys, tempfile
def refused(*arguments, **named):
    raise OSError(errno.{code}, os.strerror(errno.{code}))
tempfile.mkstemp = os.mkdir = refused
from odsg_lightning.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    record = make_record(5, 2)
    write_record(as_baseline(record), tmp_path / "base.json")
    write_record(record, tmp_path / "same.json")
    write_record(make_record(5, 2, audit_seed=1), tmp_path / "seed.json")
    return tmp_path


def run(folder: Path, code: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, stderr=subprocess.PIPE, text=True, check=False, timeout=600, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("code", [LIMITED, READ_ONLY.format(code="EROFS"), READ_ONLY.format(code="EACCES")])
def test_a_file_that_the_machine_does_not_take(folder, name, code):
    done = run(folder, code, *COMMANDS[name], stdout=subprocess.DEVNULL)
    assert done.returncode == 74, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("odsg: error: Expected to write out/")]
    assert line.endswith(
        ("File too large.", "Read-only file system: out.", "Permission denied: out.", "system.", "denied.")
    )
    assert "Traceback" not in done.stderr
    assert list((folder / "out").iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_terminal_that_takes_nothing(folder):
    with open("/dev/full", "w") as full:
        done = run(
            folder,
            "import sys; from odsg_lightning.cli import main; sys.exit(main(sys.argv[1:]))",
            "gate",
            "base.json",
            "same.json",
            stdout=full,
        )
    assert done.returncode == 74
    assert done.stderr.startswith("odsg: error: ")
    assert "No space left on device" in done.stderr
    assert "Exception ignored" not in done.stderr


def test_no_memory(folder, monkeypatch, capsys):
    def no_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr("odsg_lightning.files.json.loads", no_memory)
    monkeypatch.chdir(folder)
    assert main(["gate", "base.json", "same.json"]) == 74
    assert capsys.readouterr().err.startswith("odsg: error: MemoryError\n")


def test_a_record_that_may_not_be_read_is_not_called_broken(folder, monkeypatch, capsys):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    monkeypatch.chdir(folder)
    assert main(["gate", "base.json", "same.json"]) == 74
    assert json.loads((folder / "base.json").read_text())
    assert "Expected an audit record at base.json, but Permission denied." in capsys.readouterr().err
