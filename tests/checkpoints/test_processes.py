"""Real processes; what runs in them must be found by name there, so it stands here."""

import multiprocessing
import os
from functools import partial

import pytest
import torch

from odsg_lightning.checkpoints.processes import in_processes, one_thread
from odsg_lightning.errors import BrokenInputError, UserInputError


def begin(factor):
    """What does a task in another process: the product, where it ran, and on how many threads."""
    return lambda task: (factor * task, os.getpid(), torch.get_num_threads())


def begin_faulty(_):
    def faulty(task):
        if task == 2:
            raise BrokenInputError("Expected another task.")
        return task

    return faulty


def begin_deadly():
    return lambda task: os.kill(os.getpid(), 9)


def never(task):
    raise AssertionError("in the wrong process")


def test_results_come_in_the_order_of_the_tasks_from_processes_of_one_thread():
    found = list(in_processes(range(6), never, partial(begin, 10), processes=2))
    assert [product for product, _, _ in found] == [0, 10, 20, 30, 40, 50]
    assert os.getpid() not in {process for _, process, _ in found}
    assert {threads for _, _, threads in found} == {1}
    assert not multiprocessing.active_children()


def test_one_process_or_one_task_is_done_here():
    for tasks, processes in (([1, 2], 1), ([1], 4), ([], 4)):
        assert list(in_processes(tasks, lambda task: task + 1, never, processes)) == [task + 1 for task in tasks]


def test_what_a_task_raises_is_raised_here_after_the_results_before_it():
    results = in_processes([1, 2, 3, 4], never, partial(begin_faulty, None), processes=2)
    assert next(results) == 1
    with pytest.raises(BrokenInputError, match="Expected another task"):
        next(results)
    assert not multiprocessing.active_children()


def test_a_killed_process_is_told_and_not_waited_for():
    with pytest.raises(UserInputError, match="--processes 1"):
        list(in_processes([1, 2], never, begin_deadly, processes=2))
    assert not multiprocessing.active_children()


def test_one_thread_ends_with_the_number_of_before():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
