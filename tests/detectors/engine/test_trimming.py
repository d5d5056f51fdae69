"""Windows without their rim: by hand, and against exact ones through real backbones in float64."""

import pytest
import torch

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.engine.resnet import _through_stage
from odsg_lightning.detectors.engine.strided_window import Records, Scratch, StridedWindow
from odsg_lightning.detectors.engine.trimming import Trimmer, trimmed
from odsg_lightning.detectors.engine.window import Window
from odsg_lightning.detectors.engine.windowed import WindowedBackbone


def window(*maps, top=5, left=7, step=1):
    """One cotangent of a single channel from each map, given as rows of numbers."""
    return StridedWindow(torch.tensor(maps, dtype=torch.float64)[..., None], top, left, step)


class TestTheRim:
    def test_by_hand(self):
        # Of a mass of 100 each side may lose less than 4 / 4 = 1: rows 1 and 0.4, columns 0.4 + 0.5 and 0.
        cells = [
            [0.0, 0.0, 0.4, 0.0, 0.0],
            [0.4, 0.5, 90.0, -6.7, 0.0],
            [0.0, 0.0, 1.0, 1.0, 0.0],
        ]
        kept, dropped = trimmed(window(cells), 0.04)
        assert (kept.top, kept.left, kept.step) == (6, 9, 1)
        assert kept.values[0, ..., 0].tolist() == [[90.0, -6.7], [1.0, 1.0]]
        torch.testing.assert_close(dropped, torch.tensor([0.013], dtype=torch.float64))

    def test_all_channels_count_by_their_magnitude(self):
        values = torch.zeros(1, 1, 3, 2, dtype=torch.float64)
        values[0, 0, 0], values[0, 0, 1, 0], values[0, 0, 2, 1] = torch.tensor([3.0, -3.0]).double(), 93.0, 1.0
        kept, dropped = trimmed(StridedWindow(values, 0, 0), 0.08)
        assert (kept.left, kept.values.shape[2]) == (0, 2)  # 6 of 100 stay, though they add up to 0; 1 goes
        assert dropped.tolist() == pytest.approx([0.01])

    def test_what_is_heavy_for_one_cotangent_stays_for_all(self):
        light, heavy = [[0.1, 99.8, 0.1]], [[0.1, 9.8, 0.1]]
        kept, dropped = trimmed(window(light, heavy), 0.01)
        assert kept.values[..., 0].tolist() == [light, heavy]
        assert dropped.tolist() == [0, 0]
        kept, dropped = trimmed(window(light, light), 0.01)
        assert (kept.left, kept.values[..., 0].tolist()) == (8, [[[99.8]], [[99.8]]])
        assert dropped.tolist() == pytest.approx([0.002, 0.002])

    def test_a_cotangent_of_zeros_does_not_stand_in_the_way(self):
        kept, dropped = trimmed(window([[0.0, 0.0]], [[0.0, 5.0]]), 0.01)
        assert kept.values[..., 0].tolist() == [[[0.0]], [[5.0]]]
        assert dropped.tolist() == [0, 0]

    def test_of_zeros_one_cell_stays(self):
        kept, dropped = trimmed(window([[0.0, 0.0], [0.0, 0.0]]), 0.01)
        assert (kept.values.shape, kept.top, kept.left, dropped.tolist()) == ((1, 1, 1, 1), 5, 7, [0])

    def test_cells_with_gaps_between_them_keep_their_places(self):
        kept, _ = trimmed(window([[0.0, 1.0], [0.0, 1.0]], step=2), 0.01)
        assert (kept.top, kept.left, kept.step, kept.box.area) == (5, 9, 2, 3)

    def test_half_precision_is_summed_in_single(self):
        line = torch.full((1, 1, 2049, 1), 2.0**-12, dtype=torch.bfloat16)  # in bfloat16 this sum would stop at 1/16
        line[..., -1, :] = 1.0
        kept, dropped = trimmed(StridedWindow(line, 0, 0), 0.5)
        assert (dropped.dtype, kept.values.dtype) == (torch.float32, torch.bfloat16)
        assert float(dropped) == pytest.approx((2049 - kept.values.shape[2]) * 2.0**-12 / 1.5, rel=1e-3)


def test_the_estimate_adds_up_over_the_blocks():
    trim = Trimmer(0.1)
    assert trim.dropped is None
    trim(window([[1.0, 99.0]]))
    trim(window([[2.0, 98.0]]))
    assert trim.dropped.tolist() == pytest.approx([0.06])  # twice


def test_no_share_is_no_change():
    trim, whole = Trimmer(0.0), window([[0.0, 1.0]])
    assert trim(whole) is whole
    assert trim.dropped is None


class Still:
    """A block that passes a cotangent on as it is, and is given room for what it might have added."""

    margin, size = 1, (50, 50)

    def __init__(self):
        self.areas = []

    def transposed(self, total, parts, records):
        self.areas.append(total.box.area)
        return total


@pytest.mark.parametrize(("share", "areas"), [(0.0, [9, 25, 49, 81]), (0.01, [9, 9, 9, 9])])
def test_inside_a_stage_windows_stop_growing(share, areas):
    block = Still()
    _through_stage([block] * 4, [window([[1.0]])], Records((0,)), Scratch(), Trimmer(share))
    assert block.areas == areas


SIZE = (160, 256)


@pytest.fixture(scope="module", params=["retinanet_tiny", "faster_rcnn_tiny"])
def recorded(request):
    """A tiny backbone in float64 after a forward pass, and cotangents of two of its levels."""
    torch.manual_seed(0)
    backbone = build_detector(load_config(request.param)).eval().backbone.double()
    engine = WindowedBackbone(backbone)
    with engine.recording(), torch.no_grad():
        features = backbone(torch.randn(1, 3, *SIZE, dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    levels = list(features)[:2]

    def cotangent(name):
        shape = (3, features[name].shape[1], 2, 3)
        return Window(torch.randn(shape, generator=generator, dtype=torch.float64), 5, 8)

    return engine, {name: cotangent(name) for name in levels}


def gradients(recorded, share):
    engine, cotangents = recorded
    engine._trim = share
    found = engine.vjp(cotangents)
    full = torch.zeros(3, 3, *SIZE, dtype=torch.float64)
    full[:, :, found.top : found.bottom, found.left : found.right] = found.values
    return full, found.dropped, found.values.shape[2:].numel()


SHARES = (0.003, 0.01, 0.03, 0.09)


def test_less_is_left_out_than_is_estimated_and_the_less_the_smaller_the_share(recorded):
    exact, dropped, area = gradients(recorded, 0.0)
    assert dropped is None
    before, reached = torch.zeros(3, dtype=torch.float64), area
    for share in SHARES:
        found, dropped, area = gradients(recorded, share)
        apart = (found - exact).abs().sum((1, 2, 3)) / exact.abs().sum((1, 2, 3))
        assert (apart <= dropped).all(), share
        assert (apart >= before).all(), share
        assert area <= reached, share
        before, reached = apart, area
    assert (before > 1e-3).all()  # the largest share did leave something out
    assert reached < gradients(recorded, 0.0)[2]


def test_exact_gradients_come_back_when_nothing_is_trimmed_any_more(recorded):
    exact, _, _ = gradients(recorded, 0.0)
    gradients(recorded, 0.05)
    assert torch.equal(gradients(recorded, 0.0)[0], exact)
