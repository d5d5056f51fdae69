"""Files that are almost right, each format of unknown origin: read, or refused in one line, soon, and never passed.

``pytest tests/fuzz`` tries 100 mutations of each; ``pytest tests/fuzz --fuzz 5000`` more. The same number is always the
same file; one that fails is kept in the folder that the failure names.
"""

import faulthandler
import json
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
import yaml
from helpers.checkpoints import save_lightning, save_zoo_pickle, tiny_module
from helpers.coco_files import CocoFiles
from helpers.mutations import mutated_bytes, mutated_json, mutated_value, mutated_zip
from helpers.records import as_baseline, dropped, make_record, write_with_maps

from odsg_lightning.checkpoints.detector import load_detector
from odsg_lightning.cli import main
from odsg_lightning.detectors.weights.files import read_checkpoint_file
from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.files import sha256_of
from odsg_lightning.names import IOF_NAMES
from odsg_lightning.records.maps_file import maps_beside
from odsg_lightning.records.record import write_record

SECONDS = 10  # of processor time
MEMORY = 2**30
HARD_END = 600  # seconds without an answer, in which not even an exception can be raised

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")]


class Hang(BaseException):
    """A reader is still busy; no handler of ordinary exceptions takes it for one."""


def _hang(*_: object) -> None:
    raise Hang


@contextmanager
def watched() -> Iterator[None]:
    before = signal.signal(signal.SIGPROF, _hang)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.fixture
def tried(request, tmp_path, monkeypatch) -> Callable:
    """Write a mutation to the file of this name, do what the format's reader does, and hear what is wrong with that."""
    monkeypatch.chdir(tmp_path)

    def try_all(
        name: str, mutate: Callable[[Random], bytes], complaint: Callable[[Path], str | None], share: int = 1
    ) -> None:
        largest, wrong = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
        for number in range(request.config.getoption("fuzz") // share):
            path = Path(name)
            path.write_bytes(mutate(Random(f"{name}:{number}")))
            faulthandler.dump_traceback_later(HARD_END, exit=True, file=sys.__stderr__)
            try:
                with watched():
                    said = complaint(path)
            except (Exception, Hang):
                said = traceback.format_exc()
            if said:
                kept = Path(f"{path.stem}_{number}{path.suffix}")
                path.rename(kept)
                wrong.append(f"{tmp_path / kept}: {said}")
        faulthandler.cancel_dump_traceback_later()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - largest) * 1024
        assert not wrong, f"{len(wrong)} files\n" + "\n".join(wrong[:10])
        assert grown < MEMORY

    return try_all


def told(capsys: pytest.CaptureFixture, code: int, allowed: set[int]) -> str | None:
    """What is wrong with the exit code and the message of a command."""
    captured = capsys.readouterr()
    if code not in allowed:
        return f"exit code {code}, {captured.err[-2000:]}"
    if code in (2, 3) and "odsg: error: " not in captured.err:
        return f"exit code {code} without a word"
    return None


# The gate -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def audits(tmp_path) -> Path:
    """An accepted baseline, a candidate as good, one that is worse, all with maps."""
    record = make_record(5, 1, missed=0)
    write_with_maps(record, tmp_path / "same.json")
    write_with_maps(dropped(record, 0.4, ["necessity", *IOF_NAMES]), tmp_path / "worse.json")
    write_with_maps(record, tmp_path / "base.json")
    maps = json.loads((tmp_path / "base.json").read_text())["maps"]
    write_record(replace(as_baseline(record), maps=maps), tmp_path / "base.json")
    return tmp_path


def content_of(path: Path) -> object:
    """What the gate compares."""
    content = json.loads(path.read_bytes())
    return [content["fingerprint"], content["provenance"], content["objects"], content.get("further")]


def test_candidates(tried, audits, capsys):
    good = Path("same.json").read_bytes()

    def complaint(path: Path) -> str | None:
        code = main(["gate", "base.json", str(path)])
        said = told(capsys, code, {0, 1, 3})
        if said or code:
            return said
        (fingerprint, _, rows, _), (told_fingerprint, _, told_rows, _) = content_of(Path("same.json")), content_of(path)
        keys = [
            [(row["image_id"], row["annotation_id"], row["category"]) for row in side] for side in (rows, told_rows)
        ]
        same = fingerprint == told_fingerprint and sorted(keys[0]) == sorted(keys[1])
        return None if same else "passed, of other objects or settings"

    tried("candidate.json", lambda random: mutated_json(random, good), complaint)


def test_baselines(tried, audits, capsys):
    good, accepted = Path("base.json").read_bytes(), content_of(Path("base.json"))

    def complaint(path: Path) -> str | None:
        code = main(["gate", str(path), "same.json"])
        return told(capsys, code, {0, 3}) or (
            None if code or content_of(path) == accepted else "passed, and was edited"
        )

    tried("baseline.json", lambda random: mutated_json(random, good), complaint)


def test_gate_configurations(tried, audits, capsys):
    good = (Path(__file__).parents[2] / "configs" / "gate" / "default.yaml").read_bytes()
    good = good.replace(b"resamples: 9999", b"resamples: 199")

    def complaint(path: Path) -> str | None:
        code = main(["gate", "base.json", "worse.json", "--config", str(path)])
        said = told(capsys, code, {0, 1, 2, 3})
        if said or code == 2:
            return said
        try:
            yaml.safe_load(path.read_bytes())
        except (yaml.YAMLError, ValueError) as error:
            return f"exit code {code} with a configuration that is no YAML: {error}"
        return None

    tried("gate.yaml", lambda random: mutated_bytes(random, good), complaint)


def test_maps(tried, audits, capsys):
    good, record = Path("worse.maps.npz").read_bytes(), json.loads(Path("worse.json").read_text())

    def complaint(path: Path) -> str | None:
        entry = {"file": path.name, "sha256": sha256_of(path)}  # so that the hash does not tell
        try:
            maps = maps_beside(Path("worse.json"), entry)
            for row in record["objects"]:
                maps.read((row["image_id"], row["annotation_id"]))
        except BrokenInputError as error:
            return None if str(path) in str(error) else f"refused without its name: {error}"
        return None

    def gated(path: Path) -> str | None:
        record["maps"] = {"file": path.name, "sha256": sha256_of(path)}
        Path("with_maps.json").write_text(json.dumps(record))
        code = main(["gate", "base.json", "with_maps.json", "--strips", "strips"])
        return told(capsys, code, {1, 3})  # it is worse whatever its maps are

    tried("mutated.npz", lambda random: mutated_zip(random, good), complaint)
    tried("mutated.npz", lambda random: mutated_zip(random, good), gated, share=20)


# The audit ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_annotations(tried, tmp_path, capsys):
    files = CocoFiles(tmp_path / "data").write()
    good = files.json.read_bytes()
    words = ["--images", str(files.images_dir), "-o", "set.json", "--count", "2", "--min-size", "60", "--force"]

    def complaint(path: Path) -> str | None:
        Path("set.json").unlink(missing_ok=True)
        code = main(["audit-set", "--annotations", str(path), *words])
        said = told(capsys, code, {0, 2, 3})
        return said or (
            None if (code == 0) == Path("set.json").exists() else f"exit code {code}, and it is written or not"
        )

    tried("annotations.json", lambda random: mutated_json(random, good), complaint)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save_lightning(tiny_module(num_classes=2), folder / "good.ckpt")
    save_zoo_pickle(tiny_module(num_classes=2), folder / "good.pkl")
    return folder


def test_lightning_checkpoints(tried, checkpoints):
    good = (checkpoints / "good.ckpt").read_bytes()
    tried("mutated.ckpt", lambda random: mutated_zip(random, good), refused_or_read)


def test_pickles_of_the_model_zoo(tried, checkpoints):
    good = (checkpoints / "good.pkl").read_bytes()
    head = good.index(b"numpy") + 300  # what follows are weights

    def mutate(random: Random) -> bytes:
        return mutated_bytes(random, good[:head]) + good[head:]

    tried("mutated.pkl", mutate, refused_or_read)


def refused_or_read(path: Path) -> str | None:
    """As an audit reads it, here. Building a detector of each that can be read would take minutes."""
    try:
        read_checkpoint_file(path)
    except BrokenInputError as error:
        return None if str(path) in str(error) else f"refused without its name: {error}"
    return None


@pytest.mark.filterwarnings("ignore")
def test_configurations_in_checkpoints(tried, checkpoints):
    content = torch.load(checkpoints / "good.ckpt", weights_only=True)

    def mutate(random: Random) -> bytes:
        settings = mutated_value(random, content["hyper_parameters"])
        torch.save({"hyper_parameters": settings, "state_dict": content["state_dict"]}, "settings.ckpt")
        return Path("settings.ckpt").read_bytes()

    def complaint(path: Path) -> str | None:
        try:
            detector = load_detector(path)
        except (BrokenInputError, UserInputError) as error:
            return None if str(path) in str(error) else f"refused without its name: {error}"
        same = all(torch.equal(value, content["state_dict"][name]) for name, value in detector.state_dict().items())
        return None if same else "loaded with other weights than the file's"

    tried("mutated.ckpt", mutate, complaint, share=5)
