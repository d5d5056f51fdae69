"""Batching of cotangents, with a linear map in place of a backbone."""

import pytest
import torch

from odsg_lightning.detectors.engine.chunks import Frame, vjp_in_chunks
from odsg_lightning.detectors.engine.window import Window

STRIDES = {"p3": 8, "p4": 16}


class Upsampling:
    """The image's gradient is the sum of its features' cotangents, each repeated over its stride."""

    def __init__(self, fits=None, error=torch.cuda.OutOfMemoryError):
        self.calls, self.fits, self.error = [], fits, error

    def __call__(self, cotangents):
        counts = {len(window.values) for window in cotangents.values()}
        assert len(counts) == 1
        (count,) = counts
        self.calls.append(count)
        if self.fits is not None and count > self.fits:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        windows = [self._one(window, STRIDES[name]) for name, window in cotangents.items()]
        top, left = min(one.top for one in windows), min(one.left for one in windows)
        bottom, right = max(one.bottom for one in windows), max(one.right for one in windows)
        values = torch.zeros(count, 3, bottom - top, right - left)
        for one in windows:
            values[:, :, one.top - top : one.bottom - top, one.left - left : one.right - left] += one.values
        # A tighter window than it was asked for, another for each call: engines may trim theirs.
        return Window(values, top, left).trimmed()

    @staticmethod
    def _one(window, stride):
        values = window.values[:, :3].repeat_interleave(stride, 2).repeat_interleave(stride, 3)
        return Window(values, window.top * stride, window.left * stride)


def frame(height=1600, width=1600, limit=None):
    sizes = {name: (height // stride, width // stride) for name, stride in STRIDES.items()}
    return Frame(torch.zeros(1, 3, height, width), sizes, limit)


def cotangents(seed, **places):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Window(torch.rand(5, 4, 3, 2, generator=generator) + 1, top, left) for name, (top, left) in places.items()
    }


class Dropping(Upsampling):
    """Says of each cotangent that the share ``its first value / 100`` was dropped."""

    def __call__(self, cotangents):
        found = super().__call__(cotangents)
        first = torch.stack([window.values[:, 0, 0, 0] for window in cotangents.values()])
        return Window(found.values, found.top, found.left, dropped=first.amax(0) / 100)


@pytest.mark.parametrize("fits", [None, 3])
def test_each_object_is_told_what_was_dropped_of_its_own(fits):
    objects = [cotangents(seed, p3=(10, 10)) for seed in range(2)]
    engine = Dropping(fits)
    found = list(vjp_in_chunks(engine, iter(objects), frame(160, 160)))
    assert engine.calls[0] == 10
    for window, one in zip(found, objects, strict=True):
        assert torch.equal(window.dropped, one["p3"].values[:, 0, 0, 0] / 100)


def run(engine, objects, frame):
    """Compare with one call for each object, on the whole image."""
    found = list(vjp_in_chunks(engine, iter(objects), frame))
    assert len(found) == len(objects)
    for window, one in zip(found, objects, strict=True):
        if one:
            assert torch.equal(whole(window), whole(Upsampling()(one)))
        else:
            assert window is None


def whole(window):
    full = torch.zeros(len(window.values), 3, 1600, 1600)
    full[:, :, window.top : window.bottom, window.left : window.right] = window.values
    return full


def test_near_objects_go_together_as_far_as_memory_goes():
    near = [cotangents(0, p3=(10, 10)), cotangents(1, p3=(12, 9), p4=(6, 5)), cotangents(2, p4=(5, 6))]
    engine = Upsampling()
    run(engine, near, frame(160, 160))
    assert engine.calls == [15]
    engine = Upsampling()
    run(engine, near, frame())  # each reaches 350 x 350 pixels here: no more than one object may go at a time
    assert engine.calls == [5, 5, 5]


def test_merging_follows_the_area():
    # On 1600 x 1600, one object near the corner reaches about 360 x 350 pixels.
    for distance, together in ((2, True), (100, False)):
        objects = [cotangents(0, p3=(10, 10)), cotangents(1, p3=(10, 10 + distance))]
        engine = Upsampling()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("odsg_lightning.detectors.engine.chunks._CPU_BYTES", 2**40)
            run(engine, objects, frame())
        assert engine.calls == ([10] if together else [5, 5])


def test_merging_counts_the_cells_of_the_pyramid():
    # Both reach the whole small image; but the union of two places of a fine level has many of its cells.
    apart = [cotangents(0, p3=(0, 0)), cotangents(1, p3=(20, 20))]
    engine = Upsampling()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("odsg_lightning.detectors.engine.chunks._CPU_BYTES", 2**40)
        run(engine, apart, frame(256, 256))
        assert engine.calls == [10]
        patch.setattr("odsg_lightning.detectors.engine.chunks._CELL", 70)
        run(engine, apart, frame(256, 256))
    assert engine.calls == [10, 5, 5]


def test_objects_without_cotangents_keep_their_place():
    one = cotangents(0, p3=(1, 1))
    run(Upsampling(), [{}, one, {}, {}, one, {}], frame())
    run(Upsampling(), [{}], frame())
    run(Upsampling(), [], frame())


def test_the_limit_falls_with_the_size_of_the_maps():
    one = frame()
    assert one.most(64**2) == 32 * 2**20 // (16 * 64**2 * 4)  # 32 MiB of float32, 16 of them for a pixel
    assert one.most(512**2) == 5  # those of one object, however large the maps are
    assert Frame(one.pixels.double(), one.sizes).most(128**2) == one.most(128**2) // 2


@pytest.mark.parametrize(
    ("error", "fits", "calls"),
    [
        (torch.cuda.OutOfMemoryError, 7, [15, 7, 7, 1, 5]),
        (torch.cuda.OutOfMemoryError, 2, [15, 7, 3, 1, *[1] * 14, *[1] * 5]),
        (RuntimeError, 7, [15, 7, 7, 1, 5]),
    ],
)
def test_out_of_memory_halves_the_limit_and_goes_on(error, fits, calls):
    near = [cotangents(seed, p3=(2 + seed, 2)) for seed in range(3)]
    objects = [*near, {}, cotangents(9, p4=(2, 2))]
    engine, small = Upsampling(fits, error), frame(160, 160)
    found = list(vjp_in_chunks(engine, objects, small))
    assert engine.calls == calls
    for window, one in zip(found, objects, strict=True):
        assert window is None if not one else torch.equal(whole(window), whole(Upsampling()(one)))


def test_what_cannot_be_halved_is_raised():
    engine = Upsampling(fits=0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(vjp_in_chunks(engine, [cotangents(0, p3=(1, 1))], frame()))
    assert engine.calls == [5, 2, 1]
    with pytest.raises(RuntimeError, match="something else"):
        list(vjp_in_chunks(_raise, [cotangents(0, p3=(1, 1))], frame()))


def _raise(cotangents):
    raise RuntimeError("something else")


def test_objects_are_taken_one_after_the_other():
    taken = []

    def objects():
        for index in range(4):
            taken.append(index)
            yield cotangents(index, p3=(60 * (index % 2) * 3, 0))

    found = vjp_in_chunks(Upsampling(), objects(), frame())
    next(found)
    assert taken == [0, 1]  # the next one, to see whether it joins
