"""What holds for any record, and for any file that is almost one."""

import json
import tempfile
from pathlib import Path

import pytest
from helpers.mutations import CHANGES, VALUES, change_at, places
from helpers.records import as_baseline, as_undefined, make_record, with_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.names import BOX_PARAMETERS, IOF_NAMES, MAP_NAMES, PARAMETERS, REGIONS
from odsg_lightning.records.record import AuditRecord, ObjectRow, read_record, write_record

SHARES = st.floats(0, 1)
AREAS = st.none() | st.floats(0, 1e9)
MOST = 1000
LENIENT = {"pair_iou": 0.0, "n_samples": MOST, "tolerance": 0.01}
WAYS = {"sufficiency": ("blur", "grey"), "necessity": ("inpaint",)}
SHIFTS = st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4)
AGAIN = st.fixed_dictionaries({"score": SHARES, "iou": st.floats(0.5, 1), "shift": SHIFTS}) | st.just(
    {"score": 0.0, "iou": 0.0, "shift": None}
)
IDS = st.integers(-(2**53), 2**53)
NAMES = st.text(max_size=30)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(-1e300, 1e300), NAMES)
SHA = st.text("0123456789abcdef", min_size=64, max_size=64)


@st.composite
def rows(draw):
    names = {"image_id": draw(IDS), "annotation_id": draw(IDS), "file_name": draw(NAMES), "category": draw(NAMES)}
    if draw(st.booleans()):
        return ObjectRow(**names)
    # Whatever a tolerance stopped was matched three times.
    stopped = draw(st.booleans())
    n_samples = draw(st.integers(3, MOST)) if stopped else MOST
    matched = draw(st.integers(3 if stopped else 0, n_samples))
    x, y = (sorted(draw(st.tuples(*[st.floats(-1e9, 1e9)] * 2))) for _ in range(2))
    score, iof = draw(st.floats(0.5, 1)), draw(maps_on_regions(matched))
    again = {f"{name}/{way}": draw(st.none() | AGAIN) for name, ways in WAYS.items() for way in ways}
    statistics = st.just({}) | st.fixed_dictionaries(
        dict.fromkeys(MAP_NAMES, st.none() | SHARES) | {"area_ratio": AREAS}
    )
    if all(iof[f"{parameter}/object"] is None for parameter in BOX_PARAMETERS):
        statistics = st.sampled_from([{}, dict.fromkeys(MAP_NAMES)])
    return ObjectRow(
        **names,
        iou=0.0 if x[0] == x[1] or y[0] == y[1] else draw(SHARES),
        score=score,
        box=(x[0], y[0], x[1], y[1]),
        matched_samples=matched,
        n_samples=n_samples,
        stopped=stopped,
        iof=iof,
        box_maps=draw(statistics),
        occlusion={name: least_share(name, again, score) for name in WAYS},
        detected_again=again,
    )


@st.composite
def maps_on_regions(draw, matched):
    """IOF values of maps that are defined or not, as a whole; those of the thirds add up to the object's at most."""
    values = dict.fromkeys(IOF_NAMES)
    for parameter in PARAMETERS if matched else ():
        if draw(st.booleans()):
            whole = draw(SHARES)
            told = {"object": whole, "near": draw(SHARES)} | {region: whole * draw(SHARES) / 3 for region in REGIONS}
            values |= {f"{parameter}/{name}": share for name, share in told.items() if f"{parameter}/{name}" in values}
    return values


def least_share(name, again, score):
    scores = [one["score"] for way, one in again.items() if way.startswith(name) and one is not None]
    shares = [min(1.0, s / score) if name == "sufficiency" else max(0.0, 1 - s / score) for s in scores]
    return min(shares, default=None)


@st.composite
def records(draw):
    example = make_record(1, 1)
    objects = draw(st.lists(rows(), min_size=1, max_size=5, unique_by=lambda row: row.key))
    extra = draw(
        st.dictionaries(NAMES.filter(lambda name: name not in {*example.fingerprint, *LENIENT}), SCALARS, max_size=3)
    )
    entry = st.fixed_dictionaries(
        {"reason": st.text(min_size=1, max_size=30), "date": st.just("2026-01-31"), "record_sha256": SHA}
    )
    checkpoint = {"checkpoint": draw(st.none() | NAMES), "checkpoint_sha256": draw(st.none() | SHA)}
    return AuditRecord(
        fingerprint={**example.fingerprint, **LENIENT, "audit_set": draw(SHA), **extra},
        provenance={**example.provenance, **checkpoint, "step": draw(st.none() | st.integers(0, 2**53))},
        objects=tuple(sorted(objects, key=lambda row: row.key)),
        metrics=draw(st.dictionaries(NAMES, st.none() | st.floats(-1e300, 1e300), max_size=3)),
        maps=draw(st.none() | st.fixed_dictionaries({"file": st.just("a.maps.npz"), "sha256": SHA})),
        accepted=tuple(draw(st.lists(entry, max_size=2))),
    )


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@given(record=records())
@settings(deadline=None, max_examples=60)
def test_any_record_is_read_as_it_was_written(folder, record):
    path = folder / "record.json"
    write_record(record, path)
    first = path.read_bytes()
    read = read_record(path)
    assert read == record
    assert read.content_sha256 == record.content_sha256
    write_record(read, path)
    assert path.read_bytes() == first


EXAMPLE = as_baseline(
    with_rows(
        make_record(2, 2, missed=0.3), lambda row: as_undefined(row, ["x_min"]) if row.annotation_id == 1 else row
    )
)


def text():
    with tempfile.TemporaryDirectory() as name:
        write_record(EXAMPLE, Path(name) / "record.json")
        return (Path(name) / "record.json").read_text()


TEXT = text()


def read_or_refuse(folder, content):
    """Read bytes as a record; what is read can be written and read again."""
    path = folder / "mutated.json"
    path.write_bytes(content)
    try:
        record = read_record(path)
    except BrokenInputError as error:
        return str(path) not in str(error)  # no reason without the file that it is about
    write_record(record, path)
    assert read_record(path) == record
    return True


@given(
    position=st.integers(0, len(TEXT.encode()) - 1),
    change=st.sampled_from(["flip", "delete", "insert", "cut"]),
    byte=st.integers(0, 255),
)
@settings(deadline=None, max_examples=250)
def test_any_change_of_a_byte_is_read_or_refused(folder, position, change, byte):
    content = bytearray(TEXT.encode())
    if change == "flip":
        content[position] = byte
    elif change == "delete":
        del content[position]
    elif change == "insert":
        content.insert(position, byte)
    else:
        del content[position:]
    read_or_refuse(folder, bytes(content))


PLACES = [path for path in places(json.loads(TEXT)) if path]


@given(
    path=st.sampled_from(PLACES),
    change=st.sampled_from(CHANGES),
    value=st.sampled_from(VALUES),
)
@settings(deadline=None, max_examples=250)
def test_any_change_of_a_value_is_read_or_refused(folder, path, change, value):
    content = json.loads(TEXT)
    change_at(content, path, change, value)
    read_or_refuse(folder, json.dumps(content).encode())


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1", "1.000001", "true", '"0.5"', "1" * 5000]
)
def test_a_value_that_is_no_share_is_refused(folder, number):
    value = json.loads(TEXT)["objects"][-1]["iof"]["y_max/edge"]
    assert TEXT.count(f'"y_max/edge": {value}')
    assert read_or_refuse(folder, TEXT.encode())
    assert not read_or_refuse(folder, TEXT.replace(f'"y_max/edge": {value}', f'"y_max/edge": {number}').encode())
