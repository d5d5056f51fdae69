"""Real processes that meet over gloo, forked, as that costs no imports; in test_devices.py Fabric starts them."""

import json
import os
import signal
import sys
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed
from helpers.ports import free_port

from odsg_lightning.checkpoints.launch import is_first, on_threads, share_out, told_once
from odsg_lightning.checkpoints.ranks import Ranks
from odsg_lightning.cli import main
from odsg_lightning.errors import BrokenInputError, LostProcessError, ToldElsewhereError, UserInputError
from odsg_lightning.records.kept_folder import KeptFolder

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="there is no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
CPU = torch.device("cpu")


def in_ranks(size, folder, work):
    """Call ``work(ranks)`` in so many processes; return what each returned, or the name and text of its error."""
    port, children = free_port(), []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            try:
                store = torch.distributed.TCPStore("127.0.0.1", port, size, rank == 0, timedelta(seconds=60))
                torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
                ranks = Ranks(rank, size, CPU)
                try:
                    found = work(ranks)
                except Exception as error:
                    told = ranks.leave(error)
                    found = [type(told).__name__, str(told)]
                (folder / f"rank_{rank}.json").write_text(json.dumps(found))
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    files = [folder / f"rank_{rank}.json" for rank in range(size)]
    return [json.loads(file.read_text()) if file.exists() else None for file in files]


@pytest.fixture
def kept(tmp_path):
    folder = KeptFolder(tmp_path / "kept", {"seed": 0}, "unfinished test")
    folder.open()
    return folder


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tasks_are_shared_out_and_all_results_come_in_their_order(size, kept, tmp_path):
    def work(ranks):
        left = ranks.first(lambda: list(range(7)))
        return ranks.share(left, lambda task: [10 * task, ranks.rank], kept)

    told = in_ranks(size, tmp_path, work)
    assert told == [[[10 * task, task % size] for task in range(7)]] * size


@pytest.mark.parametrize("failing", [0, 2])
def test_an_error_in_one_is_raised_in_all_and_ends_the_others_early(failing, kept, tmp_path):
    def work(ranks):
        def do(task):
            (tmp_path / f"begun_{task}").touch()
            while len(list(tmp_path.glob("begun_*"))) < 3:
                time.sleep(0.01)
            if ranks.rank == failing:
                raise BrokenInputError(f"Expected another task than {task}.")
            while not kept.has_failed:
                time.sleep(0.01)

        ranks.share(range(30), do, kept)

    assert in_ranks(3, tmp_path, work) == [["BrokenInputError", f"Expected another task than {failing}."]] * 3
    assert len(list(tmp_path.glob("begun_*"))) == 3  # and nothing after it
    again = KeptFolder(kept.folder, {"seed": 0}, "unfinished test")
    again.open()
    assert not again.has_failed


def test_an_error_where_they_do_not_meet_is_raised_in_all(tmp_path):
    class CannotBePickledError(Exception):
        pass

    def work(ranks):
        if ranks.rank == 1:
            raise CannotBePickledError("the second breaks before they meet")
        return ranks.each(lambda: ranks.rank)

    first, second = in_ranks(2, tmp_path, work)
    assert first == second
    assert first[0] == "RuntimeError"
    assert "CannotBePickledError: the second breaks before they meet" in first[1]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_is_noticed_and_not_waited_for(killed, kept, tmp_path):
    def work(ranks):
        ranks.each(lambda: None)
        if ranks.rank == killed:
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.share(range(4), lambda task: task, kept)

    told = in_ranks(3, tmp_path, work)
    assert told.pop(killed) is None
    assert [name for name, _ in told] == ["LostProcessError"] * 2
    assert "Expected 3 processes to do the work, but one ended before its time" in told[0][1]


def test_a_process_that_sees_another_folder_says_what_nodes_need(tmp_path):
    ours = {"seed": 0, "device": "A"}
    KeptFolder(tmp_path / "kept", ours, "unfinished audit").open()
    KeptFolder(tmp_path / "kept", ours, "unfinished audit").join()
    with pytest.raises(UserInputError, match=r"it differs in 'device'\. Nodes must share a file system"):
        KeptFolder(tmp_path / "kept", ours | {"device": "B"}, "unfinished audit").join()
    with pytest.raises(UserInputError, match=r"No such file or directory\. Nodes must share a file system"):
        KeptFolder(tmp_path / "local", ours, "unfinished audit").join(seconds=0)


def test_one_process_works_here_on_its_threads():
    before, seen = torch.get_num_threads(), []
    share_out(lambda ranks: seen.append((ranks.rank, ranks.size, torch.get_num_threads())), CPU, 1, 1, threads=2)
    share_out(lambda ranks: seen.append((ranks.rank, ranks.size, torch.get_num_threads())), CPU)
    assert seen == [(0, 1, 2), (0, 1, before)]
    with on_threads(None):
        assert torch.get_num_threads() == before


@pytest.mark.parametrize(("devices", "nodes", "named"), [(0, 1, "devices"), (2, -1, "num_nodes")])
def test_numbers_below_one_are_refused(devices, nodes, named):
    with pytest.raises(UserInputError, match=f"`{named}` to be at least 1"):
        share_out(print, CPU, devices, nodes)


def test_processes_of_torchrun_that_are_not_asked_for_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserInputError, match="Expected --devices, as torchrun started 4 processes"):
        share_out(print, CPU)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserInputError, match="does not match the world size"):
        share_out(print, CPU, 2)


def test_what_another_process_says_is_not_said_again(monkeypatch, capsys):
    """The exit code is that of the error, though."""
    monkeypatch.setattr("odsg_lightning.checkpoints.launch.rank_zero_only.rank", 1)
    assert is_first(None, 1)
    assert not is_first(2, 1)
    for error, code in (
        (UserInputError("x"), 2),
        (BrokenInputError("x"), 3),
        (KeyError("x"), 70),
        (LostProcessError("x"), 74),
    ):

        def fail(_, error=error):
            with told_once(2, 1):
                raise error

        monkeypatch.setattr("odsg_lightning.cli.doctor._run", fail)
        assert main(["doctor"]) == code
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ToldElsewhereError), told_once(2, 1):
        raise UserInputError("x")
