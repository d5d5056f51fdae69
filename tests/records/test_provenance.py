import subprocess

import pytest

from odsg_lightning.files import sha256_of
from odsg_lightning.records.provenance import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text("1")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "code.py"], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", *identity, *command], check=True)
    return tmp_path


def test_commit_and_checkpoint(repository):
    (repository / "model.ckpt").write_bytes(b"weights")  # untracked: no change of the code
    found = provenance(repository / "model.ckpt", step=7)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert found["git_commit"] == head
    assert found["git_dirty"] is False
    assert (found["checkpoint"], found["step"]) == ("model.ckpt", 7)
    assert found["checkpoint_sha256"] == sha256_of(repository / "model.ckpt")
    assert {"odsg_lightning", "python", "torch", "detectron2", "numpy"} <= found["versions"].keys()


def test_a_changed_file_is_told(repository):
    (repository / "code.py").write_text("2")
    assert provenance()["git_dirty"] is True


def test_outside_of_a_repository_without_git_and_without_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = provenance(tmp_path / "none.ckpt")
    assert (found["git_commit"], found["git_dirty"], found["checkpoint_sha256"]) == (None, None, None)
    monkeypatch.setenv("PATH", "")
    assert provenance()["git_commit"] is None
