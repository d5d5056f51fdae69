"""A record and its maps are replaced together, wherever the process is killed."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.records import make_record

from odsg_lightning.errors import DiskError
from odsg_lightning.records.baseline import accept_baseline
from odsg_lightning.records.maps_file import ObjectMaps, maps_beside, waiting_path
from odsg_lightning.records.record import read_record, write_record_with_maps


def write(folder: Path, seed: int) -> None:
    record = make_record(2, 1, seed=seed, missed=0)
    maps = np.full((5, 4, 4), 0.25 * seed, np.float16)
    write_record_with_maps(record, folder / "a.json", [(row.key, ObjectMaps(maps, maps > 0)) for row in record.objects])


def accept(folder: Path, seed: int) -> None:
    write(folder.parent / f"other{seed}", seed)
    accept_baseline(folder.parent / f"other{seed}" / "a.json", folder / "a.json", "looked at")


def pair_there(folder: Path) -> int:
    """Which of the two whole pairs is there, by what its maps hold."""
    record = read_record(folder / "a.json")
    maps = maps_beside(folder / "a.json", record.maps)
    seeds = {round(float(maps.read(row.key).maps.max()) * 4) for row in record.objects}
    (seed,) = seeds
    assert record.objects == make_record(2, 1, seed=seed, missed=0).objects
    return seed


def run(action: Callable[[Path, int], None], folder: Path, kill_at: int, how: int = signal.SIGKILL) -> int:
    """Replace the pair in a copy of this process that ends itself at a step; return its exit code, or its steps."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal seen
        opened = event == "open" and str(arguments[0]).startswith(str(folder))
        if opened or event in ("os.rename", "os.remove", "tempfile.mkstemp"):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), how)

    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.addaudithook(count)
        action(folder, 2)
    finally:
        os._exit(seen)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.skipif(sys.platform == "win32", reason="copies the process")
@pytest.mark.parametrize("action", [write, accept])
def test_wherever_it_is_killed_a_whole_pair_is_there_and_the_next_run_cleans_up(action, tmp_path):
    folder = tmp_path / "out"
    for name in ("out", "other1", "other2"):
        (tmp_path / name).mkdir()
    action(folder, 1)
    shutil.copytree(folder, tmp_path / "before")
    steps = run(action, folder, 0)
    assert steps > 5
    found = []
    for kill_at in range(1, steps + 1):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "before", folder)
        how = signal.SIGKILL if kill_at % 2 else signal.SIGTERM
        assert run(action, folder, kill_at, how) == -how
        found.append(pair_there(folder))
        action(folder, 2)
        assert sorted(path.name for path in folder.iterdir()) == ["a.json", "a.maps.npz"]
        assert pair_there(folder) == 2
    assert found == sorted(found)
    assert set(found) == {1, 2}


def test_maps_that_wait_are_found_and_take_their_place_at_the_next_run(tmp_path):
    write(tmp_path, 1)
    shutil.copy(tmp_path / "a.maps.npz", tmp_path / "old.npz")
    write(tmp_path, 2)
    waiting = waiting_path(tmp_path / "a.maps.npz", read_record(tmp_path / "a.json").maps["sha256"])
    os.replace(tmp_path / "a.maps.npz", waiting)
    os.replace(tmp_path / "old.npz", tmp_path / "a.maps.npz")
    assert pair_there(tmp_path) == 2

    def broken():
        yield (1, 1), ObjectMaps(np.ones((5, 4, 4), np.float16), np.ones((5, 4, 4), bool))
        raise KeyError("a fault while the next maps are written")

    with pytest.raises(KeyError):
        write_record_with_maps(make_record(2, 1), tmp_path / "a.json", broken())
    assert pair_there(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.maps.npz"]


def test_a_record_without_maps_leaves_none_beside_it(tmp_path):
    write(tmp_path, 1)
    write_record_with_maps(make_record(2, 1), tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_record_that_cannot_be_written_leaves_the_pair_that_was_there(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(path, text):
        raise DiskError("no room")

    monkeypatch.setattr("odsg_lightning.records.record.write_text", full)
    with pytest.raises(DiskError):
        write(tmp_path, 2)
    assert pair_there(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.maps.npz"]
