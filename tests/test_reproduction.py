"""The paper's experiment: its statistics against brute force, its controls, and the script on a handful of pictures."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.runs import module_like
from helpers.scripts import EXAMPLES, same_threads, scripts_in
from lightning.pytorch import Trainer

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.demo.shapes import make_shapes
from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.smoothgrad import SmoothGrad
from odsg_lightning.metrics.edges import position
from odsg_lightning.metrics.iof import intersection_over_foreground
from odsg_lightning.saliency.masks import object_thirds
from odsg_lightning.saliency.noise import image_generator

SCRIPT = EXAMPLES / "reproduce_paper.py"


@pytest.fixture
def part(monkeypatch):
    """Import a file of the experiment as its script does."""
    with scripts_in(EXAMPLES / "reproduction", monkeypatch) as script:
        yield script


def triangle(height=40, width=60):
    """A mask with unequal thirds, away from the border."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    for row in range(8, 32):
        mask[row, 12 : 12 + row] = True
    return mask


def test_holm_by_hand(part):
    # Ascending: 4 * .01, 3 * .02, 2 * .03 and 1 * .2; no corrected value is below one of a smaller p.
    assert part("verdicts").holm([0.03, 0.01, 0.2, 0.02]) == [0.06, 0.04, 0.2, 0.06]
    assert part("verdicts").holm([0.6, 0.7]) == [1.0, 1.0]


def test_the_interval_is_that_of_whole_images_resampled(part):
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(30), 3)
    values = np.repeat(rng.normal(0.1, 0.3, 30), 3)[:, None] + rng.normal(0, 0.01, (90, 1))
    values[4] = np.nan
    [found] = part("verdicts").means_by_image(values, images)
    by_image = [values[images == image, 0] for image in range(30)]
    drawn = [np.concatenate([by_image[i] for i in rng.integers(0, 30, 30)]) for _ in range(4000)]
    low, high = np.quantile([np.nanmean(one) for one in drawn], [0.025, 0.975])
    assert found.count == 89
    assert found.mean == pytest.approx(np.nanmean(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)
    # As if the objects of an image were independent, the interval would be a good deal narrower.
    alone = part("verdicts").means_by_image(values, np.arange(90))[0]
    assert alone.high - alone.low < 0.7 * (found.high - found.low)


def test_p_is_two_sided_and_a_column_without_values_is_left_out(part):
    values = np.stack([np.linspace(-0.2, 0.8, 40), -np.linspace(-0.2, 0.8, 40), np.full(40, np.nan)], axis=1)
    above, below, nothing = part("verdicts").means_by_image(values, np.arange(40))
    assert above.p == below.p < 0.01
    assert (above.low, above.high) == pytest.approx((-below.high, -below.low))
    assert nothing.count == 0


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.01, 0.2, 0.04, "reproduced"),
        (0.01, 0.2, 0.06, "undecided"),  # Holm's correction decides, too
        (-0.01, 0.2, 0.04, "undecided"),
        (-0.2, -0.01, 0.04, "contradicted"),
        (np.nan, np.nan, np.nan, "undecided"),
    ],
)
def test_verdicts(low, high, p, expected, part):
    verdicts = part("verdicts")
    assert verdicts.verdict(verdicts.Mean(0.0, low, high, p, 9), p) == expected


@pytest.fixture
def results(part):
    """Two detectors whose maps lie on the edge by 0.4 and on the middle by 0.2, controls the other way round."""
    names, rng = part("measuring").NAMES, np.random.default_rng(0)
    arms = len(part("arms").ARMS)

    def of(detector):
        iof = np.tile(np.array([0.2, 0.4, 0.1, 0.7], np.float32), (40, len(names), 3, 3, 4, 1))
        iof[:, : arms - 1, ..., :2] = iof[:, len(names) - 1, ..., :2] = (0.4, 0.2)
        iof[..., :2] += rng.normal(0, 0.05, iof[..., :2].shape)
        return part("results").Results(
            detector, (detector,), np.zeros(40, np.int64), np.arange(40), 41, (40,), {"iof": iof}
        )

    return [of("one"), of("other")]


def test_the_claim_holds_where_it_was_planted_and_one_contradiction_is_seen(results, part):
    tables = part("tables")
    _, verdicts = tables.primary(results)
    assert verdicts == ["reproduced"] * 8
    results[1].values["iof"][:, 0, ..., 2, :2] = (0.1, 0.5)
    table, verdicts = tables.primary(results)
    assert verdicts == ["reproduced"] * 6 + ["contradicted", "reproduced"]
    assert "| other | x_max | 40 | 0 | 0.100 | 0.500 |" in table


def test_a_control_that_holds_where_it_must_fail_is_named(results, part):
    tables, names = part("tables"), part("measuring").NAMES
    assert all(tables.controls(results)[1].values())
    gaussian = part("controls").GAUSSIAN
    results[0].values["iof"][:, names.index(gaussian), ..., 0, :2] = (0.6, 0.2)
    table, passed = tables.controls(results)
    assert [name for name, right in passed.items() if not right] == [gaussian]
    assert "**no**" in table


def test_rotated_maps_exchange_edge_and_opposite(part):
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[4:22, 30:57] = True  # so near to the corner that some of what is rotated comes from outside
    maps = torch.rand(5, 40, 60, generator=torch.Generator().manual_seed(0))
    rotated = part("controls").rotated(maps, mask)
    expected = torch.zeros_like(maps)
    for row in range(26):  # 4 + 21 - row is a row of the picture
        for column in range(27, 60):
            expected[:, row, column] = maps[:, 25 - row, 86 - column]
    assert torch.equal(rotated, expected)
    thirds = object_thirds(mask)
    for number in range(4):
        edge, opposite = (maps[number] * thirds[number, 0]).sum(), (rotated[number] * thirds[number, 2]).sum()
        assert edge == pytest.approx(opposite)


def test_the_centre_gaussian_is_largest_on_the_middle_third(part):
    measuring, controls = part("measuring"), part("controls")
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[6:30, 10:46] = True
    iof = measuring._iof(controls.centre_gaussian(mask), mask)
    assert (iof[..., 1] > iof[..., 0]).all()
    assert iof[..., 0] == pytest.approx(iof[..., 2], abs=0.02)


def test_a_detector_that_reads_its_edges_has_an_edge_iof_of_one(part):
    measuring, controls = part("measuring"), part("controls")
    maps = controls.linear_maps(torch.rand(3, 40, 60) * 255, triangle())
    iof = measuring._iof(maps, triangle())
    without_blur = iof[measuring.BLURS.index("none")]
    assert (without_blur[..., 0] == 1).all()
    assert (without_blur[..., 1:3] == 0).all()
    assert (iof[measuring._PAPER][..., 0] > 0.65).all()  # the blur carries some of it over the border


def test_iof_is_that_of_the_metric(part):
    measuring = part("measuring")
    maps = torch.rand(5, 40, 60, generator=torch.Generator().manual_seed(1)) ** 3
    iof = measuring._iof(maps, triangle())
    widths = {"2 px": 2.0, "none": 0.0, "relative": float(np.hypot(24, 31)) / 100}
    for number, blur in enumerate(measuring.BLURS):
        for index, threshold in enumerate(measuring.THRESHOLDS):
            values = intersection_over_foreground(
                maps[None], triangle()[None], blur_sigma=widths[blur], threshold=threshold
            )
            assert iof[number, index].flatten() == pytest.approx(values[0, :16].numpy())


def test_the_position_of_the_whole_map_sees_what_lies_beyond_the_box(part):
    mask = torch.zeros(20, 40, dtype=torch.bool)
    mask[5:15, 10:30] = True
    maps = torch.zeros(5, 20, 40)
    maps[:, 4, 5] = 1  # its middle is 4.5 columns left of the box, and half a row above it
    maps[:, 14, 29] = 1  # half a column, and half a row, within the far corner
    inside = part("measuring")._inside(maps, mask)
    x, y = ((5.5 + 29.5) / 2 - 10) / 20, ((4.5 + 14.5) / 2 - 5) / 10
    assert position(maps[None], mask[None])[0].numpy() == pytest.approx([x, y, 1 - x, 1 - y])
    assert position(inside[None], mask[None])[0, 0] == pytest.approx(0.975)  # which sees one of the two


def test_gini_by_hand(part):
    maps = torch.zeros(5, 2, 2)
    maps[:, 0, 0] = 3.0
    assert part("measuring")._gini(maps) == pytest.approx(0.75)  # one of four pixels has everything
    assert part("measuring")._gini(torch.ones(5, 2, 2)) == pytest.approx(0.0)
    assert np.isnan(part("measuring")._gini(torch.full((5, 2, 2), torch.nan)))


def test_other_settings_are_refused_by_name(part, tmp_path):
    keep = part("settings").keep_settings
    keep(tmp_path / "settings.json", {"samples": 20, "seeds": (0, 1)})
    keep(tmp_path / "settings.json", {"samples": 20, "seeds": [0, 1]})
    with pytest.raises(UserInputError, match=r"samples was 20 and is 4\. Choose another --output"):
        keep(tmp_path / "settings.json", {"samples": 4, "seeds": [0, 1]})


def test_where_cells_look_is_what_strides_and_padding_say(part):
    torch.manual_seed(0)
    detector = build_detector(load_config("faster_rcnn_tiny")).eval()
    found = {look.level: look for look in part("up_left").looks(detector, [torch.rand(3, 320, 320) * 255])}
    for level, stride in (("res2", 4), ("res3", 8), ("res4", 16)):
        assert found[level].stride == stride
        assert found[level].shift == pytest.approx([(1 - stride) / 2] * 2, abs=1.0)
    assert (found["p3"].shift < found["res3"].shift - 2).all()  # what the pyramid adds


@pytest.mark.slow
def test_two_halves_make_the_whole_and_the_mirrored_maps_are_turned_back(part, trained_retinanet):
    arms = part("arms")
    sample, module = trained_retinanet.samples[0], module_like(trained_retinanet.model).eval()
    with isolated(module):
        content = arms.maps_of_picture(module, module, sample, 0, 4, AuditConfig(score_threshold=0.2))
        adapter = resolve_adapter(module)
        found = adapter.detect([sample.image])[0].detach()
        row = int((found.boxes - torch.from_numpy(content["found"][0])).abs().sum(dim=1).argmin())
        [whole] = SmoothGrad(n_samples=4).explain(
            adapter, sample.image, found, [row], generator=image_generator(0, sample.image_id)
        )
    maps = content[f"maps/{arms.PRIMARY}"][0] * content[f"peaks/{arms.PRIMARY}"][0][:, None, None]
    assert maps == pytest.approx(whole.maps.numpy(), abs=1e-3 * float(whole.maps.max()))
    assert content[f"matched/{arms.PRIMARY}"][0] == whole.matched_samples
    # The same "network" on the mirrored picture sees the same edges: a map lies where it lay, and not where that of the
    # other side did, whose it became in between. (Upper and lower edge stay what they are, and tell nothing of this.)
    upright, turned = content["maps/method 2, one pass"][0, :4], content[f"maps/{arms.MIRRORED}"][0, :4]
    for number, other_side in ((0, 2), (2, 0)):
        same, other = (np.corrcoef(turned[number].ravel(), upright[n].ravel())[0, 1] for n in (number, other_side))
        assert same > other


@pytest.fixture
def checkpoint(trained_retinanet, tmp_path):
    """A detector that finds some of the shapes, and its pictures."""
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
    trainer.strategy.connect(module_like(trained_retinanet.model, num_classes=3))
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    shapes = make_shapes(tmp_path / "shapes", n_train=1, n_val=6, seed=3)
    return [
        f"--images={shapes.val_images}", f"--annotations={shapes.val_annotations}",
        f"--checkpoint={tmp_path / 'model.ckpt'}", "--samples=2", "--pictures=4", "--score-threshold=0.2",
        "--accelerator=cpu",
    ]  # fmt: skip


def run(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=540, check=False
    )


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_two_processes_find_the_same(checkpoint, tmp_path):
    whole = run(*checkpoint, f"--output={tmp_path / 'one'}", "--devices=1")
    assert whole.returncode == 0, whole.stderr
    assert "These are not the paper's weights" in whole.stdout
    assert "Overall: **" in whole.stdout
    files = sorted((tmp_path / "one" / "values" / "RetinaNet-1").iterdir())
    assert len(files) == 4
    times = [file.stat().st_mtime_ns for file in files]
    before = dict(np.load(files[0]))
    files[0].unlink()
    again = run(*checkpoint, f"--output={tmp_path / 'one'}", "--devices=1")
    assert again.returncode == 0, again.stderr
    assert [file.stat().st_mtime_ns == time for file, time in zip(files, times, strict=True)] == [
        False,
        True,
        True,
        True,
    ]
    two = run(*checkpoint, f"--output={tmp_path / 'two'}", "--devices=2")
    assert two.returncode == 0, two.stderr
    for file in files:
        alone, shared = (
            dict(np.load(tmp_path / name / "values" / "RetinaNet-1" / file.name)) for name in ("one", "two")
        )
        assert alone.keys() == shared.keys()
        for name in alone:
            np.testing.assert_array_equal(alone[name], shared[name], err_msg=name)
    for name, values in before.items():
        np.testing.assert_array_equal(values, np.load(files[0])[name], err_msg=name)
    other = run(*checkpoint, f"--output={tmp_path / 'one'}", "--devices=1", "--samples=4")
    assert other.returncode != 0
    assert "samples was 2 and is 4" in other.stderr


@pytest.mark.slow
def test_the_shapes_are_trained_on_explained_and_judged(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with scripts_in(EXAMPLES / "reproduction", monkeypatch), same_threads():
        import reproduce_paper

        few = ["--steps=1", "--training-images=8", "--seeds=0", "--pictures=2", "--samples=2", "--devices=1"]
        assert reproduce_paper.main([*few, f"--output={tmp_path}"]) == 0
    sys.modules.pop("reproduce_paper")
    printed = capsys.readouterr().out
    assert "retinanet detected none of " in printed  # after a single step
    assert (tmp_path / "results.md").read_text(encoding="utf-8") in printed


@pytest.mark.coco
@pytest.mark.slow
def test_real_photographs_are_filtered_and_said_not_to_be_the_papers(coco_tiny, part):
    pictures = part("pictures").choose(
        coco_tiny / "annotations/instances_val2017.json", coco_tiny / "val2017", (200, 333),
        part("pictures").Selection(20, classes=10, objects_per_image=2, min_area=32**2),
    )  # fmt: skip
    assert len(pictures.classes) == 10
    for image_id, numbers in pictures.objects.items():
        (image,) = (image for image in pictures.coco.images if image.id == image_id)
        chosen = [annotation for annotation in image.annotations if annotation.id in numbers]
        assert 1 <= len(chosen) == len(numbers) <= 2
        for annotation in chosen:
            x_min, y_min, x_max, y_max = annotation.box
            assert not annotation.iscrowd
            assert min(x_min, y_min, image.width - x_max, image.height - y_max) >= 1
            assert pictures.coco.category_names[annotation.label] in pictures.classes
        assert len(pictures.load(image_id).labels) == len(numbers)
    assert pictures.left_out["touching the border"] > 0
