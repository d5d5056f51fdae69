"""What every metric of a map has: a lazy name, copies, an empty state, and a state that processes merge."""

import pickle
import re
from pathlib import Path

import pytest
import torch
from helpers.ports import free_port

from odsg_lightning import metrics
from odsg_lightning.metrics.per_object import PerObjectMetric

NEW = (
    "PointingGame",
    "EnergyPointingGame",
    "ObjectDiscrimination",
    "Compactness",
    "VisualExplanationAccuracy",
    "Deletion",
    "Insertion",
)


def test_names_are_loaded_on_first_use():
    assert {name for name in metrics.__all__ if issubclass(getattr(metrics, name), PerObjectMetric)} == {*dir(metrics)}
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = metrics.Nothing


def test_the_page_of_measures_names_every_one_and_its_example_runs():
    page = (Path(__file__).parents[2] / "docs" / "measures.md").read_text()
    assert all(f"`{name}`" in page for name in metrics.__all__)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})


def update(name, metric, seed):
    """Add two objects."""
    generator = torch.Generator().manual_seed(seed)
    maps, masks = torch.rand(2, 5, 12, 14, generator=generator) ** 3, torch.rand(2, 12, 14, generator=generator) < 0.4
    maps[0, seed % 5] = torch.nan
    boxes = torch.tensor([[1.0, 2, 7, 9], [5.0, 3, 13, 11]])
    arguments = {
        "PointingGame": (maps, masks, boxes),
        "EnergyPointingGame": (maps, masks, boxes),
        "ObjectDiscrimination": (maps, boxes, torch.tensor([0, 1])),
        "Compactness": (maps, boxes),
        "VisualExplanationAccuracy": (maps, masks),
    }
    metric.update(*arguments.get(name, (torch.rand(2, 3, 6, generator=generator),)))


def scalars(metric):
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("name", NEW)
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_copies_and_empty_states(name):
    metric = getattr(metrics, name)()
    assert all(value.isnan() for value in metric.compute().values())
    assert len(metric.per_object()) == 0
    for seed in range(3):
        update(name, metric, seed)
    assert len(metric.per_object()) == 6
    for copy in (pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert torch.equal(copy.per_object().nan_to_num(-1), metric.per_object().nan_to_num(-1))
    metric.persistent(True)
    restored = getattr(metrics, name)()
    restored.load_state_dict(metric.state_dict())
    assert scalars(restored) == pytest.approx(scalars(metric), nan_ok=True)
    metric.reset()
    assert len(metric.per_object()) == 0


SHARES = (((0, 1, 2), (3,)), ((0, 1), ()), ((), ()))


def _in_process(rank, port, queue):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    queue.put([[scalars(filled(name, shares[rank])) for shares in SHARES] for name in NEW])
    torch.distributed.destroy_process_group()


def filled(name, seeds):
    metric = getattr(metrics, name)()
    for seed in seeds:
        update(name, metric, seed)
    return metric


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_two_processes_with_uneven_shares_have_the_values_of_one():
    context = torch.multiprocessing.get_context("spawn")
    queue, port = context.Queue(), free_port()
    processes = [context.Process(target=_in_process, args=(rank, port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=600) for _ in processes]
    for process in processes:
        process.join(600)
    for result in results:
        for name, cases in zip(NEW, result, strict=True):
            for shares, found in zip(SHARES, cases, strict=True):
                expected = scalars(filled(name, [seed for share in shares for seed in share]))
                assert found == pytest.approx(expected, nan_ok=True), name
