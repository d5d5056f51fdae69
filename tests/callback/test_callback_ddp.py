"""The callback in two real processes (DDP, gloo): the same numbers, no harm to the training, and never a deadlock."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from helpers import ddp_run
from helpers.ports import free_port
from helpers.runs import EVERY_TAG, module_like, quick_audit, read_events, shapes_data, trainer_with

from odsg_lightning.records.maps_file import maps_beside
from odsg_lightning.records.record import read_record

pytestmark = pytest.mark.slow

TIMEOUT = 600  # seconds; a run takes about 15, and more on a busy machine
SAME_EVERYWHERE = EVERY_TAG - {"audit/seconds"}


@dataclass
class Ended:
    code: int
    output: str


def start_two(folder, model, shapes_folder, tasks):
    """Run the tasks in two processes and return how each ended; a deadlock is a failure."""
    folder.mkdir()
    torch.save(model.state_dict(), folder / "weights.pt")
    settings = {
        "weights": str(folder / "weights.pt"),
        "shapes": str(shapes_folder),
        "results": str(folder),
        "tasks": tasks,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    # TorchScript runs a function differently the first time than later: in its last bits, the first training of a
    # process would differ from the next, audited or not.
    shared |= {"PYTORCH_JIT": "0", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, ddp_run.__file__, str(folder / "settings.json")],
            env=os.environ | shared | {"LOCAL_RANK": str(rank)},
            stdout=(folder / f"output_{rank}.txt").open("w"),  # no pipe: a full one would block the process
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        codes = [process.wait(TIMEOUT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Ended(code, (folder / f"output_{rank}.txt").read_text()) for rank, code in enumerate(codes)]


def task(entry, audit, *, audit_images=3, fails="none", logs=None, checkpoint=None, trainer=None, **options):
    found = {"entry": entry, "audit": audit, "audit_images": audit_images, "fails": fails, "options": options}
    found["trainer"] = trainer or {}
    return found | {"logs": str(logs) if logs else None, "checkpoint": str(checkpoint) if checkpoint else None}


@dataclass
class Results:
    ranks: list[dict]
    logs: Path
    checkpoint: Path


@pytest.fixture(scope="module")
def results(tmp_path_factory, trained_retinanet, shapes_folder):
    """All that needs no error, in one start."""
    folder = tmp_path_factory.mktemp("ddp") / "run"
    logs, checkpoint = folder.parent / "logs", folder.parent / "last.ckpt"
    tasks = {
        "validate 3": task("validate", {}, verbose=False),
        "validate 1": task("validate", {}, audit_images=1, verbose=False),
        "fit without": task("fit", None),
        "fit": task("fit", {"save_records": True}, logs=logs, checkpoint=checkpoint),
        "fit failing": task("fit", {}, fails="second"),
        "fit within a share": task(
            "fit", {"max_share": 1e-6, "occlusion": False}, audit_images=1, trainer={"val_check_interval": 1}
        ),
    }
    for ended in start_two(folder, trained_retinanet.model, shapes_folder, tasks):
        assert ended.code == 0, ended.output
    return Results([json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(2)], logs, checkpoint)


def test_there_were_two_processes(results):
    first, second = results.ranks
    assert first["fit"]["pid"] != second["fit"]["pid"]
    assert all(run["world_size"] == 2 for rank in results.ranks for run in rank.values())


@pytest.mark.parametrize("images", [3, 1])
def test_same_numbers_as_one_process(images, results, trained_retinanet, shapes_folder):
    data = shapes_data(shapes_folder, audit_images=images)
    trainer = trainer_with([quick_audit()])
    (alone,) = trainer.validate(module_like(trained_retinanet.model), data, verbose=False)
    assert alone["audit/recall"] > 0
    assert 0 <= alone["occlusion/necessity"] <= 1  # and no NaN, which would equal anything
    for rank in results.ranks:
        logged = rank[f"validate {images}"]["logged"]
        for name in SAME_EVERYWHERE:
            assert logged[name] == pytest.approx(alone[name], abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize(("run", "shares"), [("validate 3", 2), ("validate 1", 1), ("fit", 2)])
def test_values_of_each_object_are_those_that_either_process_measured_bit_for_bit(run, shares, results):
    last = [rank[run]["measured"][-1] for rank in results.ranks]  # fit audits twice
    assert sum(1 for share in last if share) == shares
    measured = [bits for _, _, bits in sorted(last[0] + last[1])]
    for rank in results.ranks:
        assert rank[run]["per_object"] == measured


@pytest.mark.parametrize("run", ["fit", "fit failing"])
def test_training_is_bit_identical(run, results):
    for rank in results.ranks:
        without = rank["fit without"]
        assert len(without["losses"]) == 4
        for name in ("losses", "weights", "optimizer", "random"):
            assert rank[run][name] == without[name], name
    first, second = (rank[run] for rank in results.ranks)
    assert first["weights"] == second["weights"]
    assert first["losses"] != second["losses"]  # each process saw images of its own


def test_both_processes_skip_the_same_audits(results):
    runs = [rank["fit within a share"] for rank in results.ranks]
    assert [run["n_audits"] for run in runs] == [2, 2]  # of four validations, the first and the last
    assert [run["logged"]["audit/skipped"] for run in runs] == [2, 2]
    assert runs[0]["weights"] == runs[1]["weights"]


def test_failure_of_one_process_is_known_to_both(results):
    for rank in results.ranks:
        assert rank["fit failing"]["n_failed"] == 2
        logged = rank["fit failing"]["logged"]
        assert logged["audit/n_failed"] == 2
        assert all(math.isnan(logged[name]) for name in SAME_EVERYWHERE - {"audit/n_failed"})
    cause = [
        "ArithmeticError: broken in the second process" in text for text in results.ranks[1]["fit failing"]["warnings"]
    ]
    assert cause.count(True) == 2


def test_first_process_alone_writes_and_pictures_stand_beside_the_scalars(results):
    files = [path.name for path in results.logs.rglob("events.out.tfevents.*")]
    assert files
    assert all(f".{results.ranks[0]['fit']['pid']}." in name for name in files)
    events = read_events(results.logs)
    steps = [event.step for event in events.Scalars("iof/object")]
    assert steps == [1, 3]
    pictures = events.Tags()["images"]
    assert pictures
    for tag in pictures:
        assert [event.step for event in events.Images(tag)] == steps


def test_record_holds_the_objects_of_both_processes(results):
    paths = sorted(results.logs.rglob("audits/*.json"))
    assert [path.name for path in paths] == ["step_000001.json", "step_000003.json"]
    record = read_record(paths[1])
    assert len(record.objects) == results.ranks[0]["fit"]["logged"]["audit/n_objects"]
    assert len({row.image_id for row in record.objects}) == 3
    found = {row.key for row in record.objects if not row.missed}
    assert maps_beside(paths[1], record.maps).keys == found
    assert record.metrics["drift/n_objects"] > 0
    for rank in results.ranks:
        assert rank["fit"]["logged"]["drift/ssim"] == pytest.approx(record.metrics["drift/ssim"], abs=1e-6)


def test_drift_goes_on_with_another_number_of_processes(results, trained_retinanet, shapes_folder):
    module = module_like(trained_retinanet.model)
    for stage in module.detector.backbone.bottom_up.stages[-1:]:
        stage.append(torch.nn.Dropout(0.2))  # as the run had it
    trainer = trainer_with([quick_audit()])
    data = shapes_data(shapes_folder, audit_images=3)
    (alone,) = trainer.validate(module, data, ckpt_path=results.checkpoint, verbose=False)
    assert alone["drift/n_objects"] == alone["audit/recall"] * alone["audit/n_objects"] > 0
    # The weights are those of the last audit. Its maps came from both processes; equal but for rounding to halves.
    assert alone["drift/pearson"] < 0.001
    assert alone["drift_ref/pearson"] > alone["drift/pearson"]


def test_raise_ends_both_processes(tmp_path, trained_retinanet, shapes_folder):
    tasks = {"fit": task("fit", {"on_error": "raise"}, fails="second")}
    first, second = start_two(tmp_path / "run", trained_retinanet.model, shapes_folder, tasks)
    for ended in (first, second):
        assert ended.code not in (0, None)
        assert "RuntimeError: ODSmoothGrad audit failed at step 2" in ended.output
    assert "ArithmeticError: broken in the second process" in second.output
