import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.measure import AuditedObject, fingerprint, measured, object_maps, object_row
from odsg_lightning.metrics.iof import intersection_over_foreground
from odsg_lightning.metrics.occlusion import occlusion_values
from odsg_lightning.names import IOF_NAMES, OCCLUSION_NAMES, PARAMETERS
from odsg_lightning.occlusion.evidence import NECESSITY, SUFFICIENCY, DetectedAgain, OcclusionEvidence
from odsg_lightning.records.maps_file import MAX_SIDE, MapsFile, maps_writer
from odsg_lightning.records.record import AuditRecord, read_record, write_record
from odsg_lightning.saliency.masks import binarise
from odsg_lightning.types import AuditSample, ObjectSaliency

NO_BLUR = AuditConfig(blur_sigma=0.0, threshold=0.5)


def sample(height=12, width=18, names=("cat", "dog")):
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, :3, :3], masks[1, 3:9, 6:12] = True, True
    return AuditSample(
        image=torch.zeros(3, height, width),
        boxes=torch.tensor([[0.0, 0, 3, 3], [6, 3, 12, 9]]),
        labels=torch.tensor([4, 5]),
        masks=masks,
        image_id=8,
        annotation_ids=(80, 81),
        file_name="folder/8.png",
        category_names=names,
    )


def audited(maps, config=NO_BLUR, evidence=None):
    of = sample(*maps.shape[1:])
    box, saliency = torch.tensor([6.12345678, 3, 12, 9]), ObjectSaliency(maps, 3, 4)
    return AuditedObject(of, 1, measured(box, 0.98765432, 0.87654321, saliency, evidence, of.masks[1], config))


def test_a_row_by_hand():
    maps = torch.zeros(5, 12, 18)
    maps[:, 4, 6], maps[:, 4, 7], maps[:, 0, 0] = 1.0, 0.9, 0.8  # two pixels in the left third, one off the object
    maps[3] = torch.nan
    row = object_row(audited(maps))
    assert (row.key, row.file_name, row.category) == ((8, 81), "folder/8.png", "dog")
    assert (row.iou, row.score, row.matched_samples, row.n_samples) == (0.876543, 0.987654, 3, 4)
    assert row.box == (6.123457, 3.0, 12.0, 9.0)
    third = 0.666667
    assert [row.iof[f"x_min/{r}"] for r in ("edge", "middle", "opposite", "object")] == [third, 0.0, 0.0, third]
    assert [row.iof[f"x_max/{r}"] for r in ("edge", "middle", "opposite", "object")] == [0.0, 0.0, third, third]
    assert {row.iof[name] for name in IOF_NAMES if name.startswith("y_max")} == {None}
    assert row.iof["score/object"] == third
    assert row.undefined == ("y_max",)
    # The object has 36 pixels, and each foreground three, two of them on it: a third of the mass lies off it.
    assert row.box_maps == {"area_ratio": 0.083333, "relevance_mass": 0.703704, "pointing_game": 1.0}
    # 1.0 lies in the first and 0.9 in the second of its six columns, both in the second row; 0.8 six columns before it.
    assert [row.edges[f"enrichment/x_min/{region}"] for region in ("edge", "middle", "opposite")] == [3.0, 0.0, 0.0]
    assert [row.edges[f"position/{parameter}"] for parameter in PARAMETERS[:3]] == [-0.157407, 0.052469, 1.157407]
    assert {value for name, value in row.edges.items() if "/y_max" in name} == {None}
    assert (row.occlusion, row.detected_again) == ({}, {})


def test_near_in_a_row_by_hand():
    maps = torch.zeros(5, 12, 18)
    # The object has columns 6 to 11 and rows 3 to 8: a size of 6, grown by a fifth of it: by 1 pixel, not by its root.
    maps[:, 4, 5], maps[:, 4, 4], maps[:, 9, 12], maps[:, 4, 7] = 1.0, 0.9, 0.8, 0.5  # 0.5 is no more than a half
    row = object_row(audited(maps, AuditConfig(blur_sigma=0, threshold=0.32)))
    assert {row.iof[f"{parameter}/near"] for parameter in PARAMETERS} == {0.333333}
    assert {row.iof[f"{parameter}/object"] for parameter in PARAMETERS} == {0.25}
    wider = object_row(audited(maps, AuditConfig(blur_sigma=0, near_margin=0.34, near_threshold=0.4)))
    assert {wider.iof[f"{parameter}/near"] for parameter in PARAMETERS} == {1.0}  # by 2 pixels; four of four


def test_what_hiding_pixels_did_is_in_the_row_to_six_digits():
    again = DetectedAgain(0.87654321, 0.76543219, (0.1234567, 0.0, -0.5, 1.0))
    evidence = OcclusionEvidence({"blur": again, "grey": None}, {"inpaint": DetectedAgain(0.0, 0.0, None)})
    maps = torch.rand(5, 12, 18)
    row = object_row(audited(maps, evidence=evidence))
    assert row.detected_again == {
        "sufficiency/blur": {"score": 0.876543, "iou": 0.765432, "shift": [0.123457, 0.0, -0.5, 1.0]},
        "sufficiency/grey": None,
        "necessity/inpaint": {"score": 0.0, "iou": 0.0, "shift": None},
    }
    values = dict(
        zip(OCCLUSION_NAMES, occlusion_values([evidence], torch.tensor([0.98765432]))[0].tolist(), strict=True)
    )
    assert row.occlusion == pytest.approx(values, abs=5e-7)
    unjudged = OcclusionEvidence({"blur": None}, {"inpaint": None})
    assert object_row(audited(maps, evidence=unjudged)).occlusion == {"sufficiency": None, "necessity": None}


def test_a_missed_object_has_names_only():
    row = object_row(AuditedObject(sample(names=()), 0))
    assert (row.key, row.category, row.missed, row.iou, row.box) == ((8, 80), "class 4", True, None, None)
    assert object_maps(AuditedObject(sample(), 0)) is None


def test_what_is_measured_follows_the_settings():
    maps = torch.rand(5, 40, 50, generator=torch.Generator().manual_seed(0))
    maps[2] = torch.nan
    more = AuditConfig(blur_sigma=1.0, threshold=0.8, near_threshold=0.7, near_margin=0.1)
    for config in (NO_BLUR, AuditConfig(), more):
        found = audited(maps, config).explained
        assert torch.equal(found.foreground, binarise(maps, config.blur_sigma, config.threshold))
        names = ("blur_sigma", "threshold", "near_threshold", "near_margin")
        settings = {name: getattr(config, name) for name in names}
        (expected,) = intersection_over_foreground(maps[None], sample(40, 50).masks[1:], **settings)
        assert torch.equal(found.iof.nan_to_num(-1), expected.nan_to_num(-1))
        undefined = [name for name, value in zip(IOF_NAMES, found.iof.isnan().tolist(), strict=True) if value]
        assert undefined == [name for name in IOF_NAMES if name.startswith("x_max/")]


def test_rows_are_those_of_the_metric_and_survive_the_file(tmp_path):
    maps = torch.rand(5, 40, 50, generator=torch.Generator().manual_seed(0))
    again = DetectedAgain(0.9, 0.8, (0.1, 0.0, -0.1, 0.25))
    evidence = OcclusionEvidence({"blur": again, "grey": DetectedAgain(0.0, 0.0, None)}, {"inpaint": None})
    row = object_row(audited(maps, AuditConfig(), evidence))
    expected = intersection_over_foreground(maps[None], sample(40, 50).masks[1:])[0].tolist()
    assert list(row.iof.values()) == pytest.approx(expected, abs=5e-7)
    origin = dict.fromkeys(("checkpoint", "checkpoint_sha256", "step", "git_commit", "git_dirty")) | {"versions": {}}
    record = AuditRecord(fingerprint("0" * 64, AuditConfig(n_samples=row.n_samples)), origin, (row,))
    write_record(record, tmp_path / "r.json")
    assert read_record(tmp_path / "r.json") == record


def block_means(array, block):
    height, width = array.shape
    return np.array(
        [[array[y : y + block, x : x + block].mean() for x in range(0, width, block)] for y in range(0, height, block)]
    )


@pytest.mark.parametrize(("height", "width", "block"), [(60, 70, 1), (150, 193, 2), (385, 100, 3), (100, 576, 3)])
def test_maps_are_block_means_as_shares_of_their_maximum(height, width, block):
    maps = 1e-6 * torch.rand(5, height, width, generator=torch.Generator().manual_seed(1)) ** 8
    maps[4] = 0.0
    found = object_maps(audited(maps, AuditConfig()))
    foreground = binarise(maps).numpy().astype(float)
    assert max(found.maps.shape[1:]) <= MAX_SIDE
    for index in range(4):
        expected = block_means(maps[index].double().numpy(), block)
        np.testing.assert_allclose(found.maps[index], expected / expected.max(), atol=1e-3)
        filled = block_means(foreground[index], block)
        assert np.array_equal(found.foreground[index], filled >= min(0.5, filled.max()))
        assert found.foreground[index].any()
    assert np.isnan(found.maps[4]).all()
    assert not found.foreground[4].any()


def test_a_foreground_smaller_than_a_block_is_kept():
    maps = torch.zeros(5, 12, 960)
    maps[:, 6, 7] = 1.0
    found = object_maps(audited(maps))
    assert found.maps.shape == (5, 3, 192)
    assert found.foreground.sum() == 5
    assert found.foreground[:, 1, 1].all()
    assert found.maps[0, 1, 1] == 1


def test_maps_and_strip_survive_the_file(tmp_path):
    strip = np.full((20, 30, 3), 200, np.uint8)
    found = object_maps(audited(torch.rand(5, 40, 50)), strip)
    with maps_writer(tmp_path / "m.npz") as writer:
        writer.add((8, 81), found)
    read = MapsFile(tmp_path / "m.npz").read((8, 81))
    assert np.array_equal(read.maps, found.maps)
    assert np.array_equal(read.foreground, found.foreground)
    with Image.open(io.BytesIO(read.strip)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (30, 20))
        assert abs(np.asarray(picture.convert("RGB")).astype(int) - 200).max() < 8


def test_the_fingerprint_names_set_and_settings_but_no_engine():
    found = fingerprint("a" * 64, AuditConfig(engine="cut", seed=3))
    assert found["audit_set"] == "a" * 64
    assert found["seed"] == 3
    assert "engine" not in found
    assert (found["near_threshold"], found["near_margin"], found["sufficiency_margin"]) == (0.5, 0.2, 0.025)
    assert found["occlusion"] == f"{' + '.join(SUFFICIENCY)}, {' + '.join(NECESSITY)}"
    assert "masks" not in found
    assert fingerprint("a" * 64, AuditConfig(), "box")["masks"] == "box"
    off = fingerprint("a" * 64, AuditConfig(occlusion=False))
    assert off["occlusion"] is False
    assert not {"sufficiency_margin", "necessity_margin"} & off.keys()
    assert not any(isinstance(value, float) and math.isnan(value) for value in found.values())
