import numpy as np
import pytest
import torch
from helpers.records import make_record

from odsg_lightning.metrics.iof import IntersectionOverForeground
from odsg_lightning.names import IOF_NAMES, SUMMARY_NAMES
from odsg_lightning.records.means import audit_means


@pytest.mark.parametrize("undefined", [0.0, 0.3])
def test_means_are_those_that_training_logs(undefined):
    record = make_record(9, 3, missed=0.2, undefined=undefined)
    rows = [row.iof for row in record.objects if row.iof is not None]
    table = [[np.nan if row[name] is None else row[name] for name in IOF_NAMES] for row in rows]
    metric = IntersectionOverForeground()
    metric.update(values=torch.tensor(table))
    means = audit_means(record.objects)
    for name, value in metric.compute().items():
        assert means[f"iof/{name}"] == pytest.approx(float(value), abs=1e-6), name
    assert {f"iof/{name}" for name in (*IOF_NAMES, *SUMMARY_NAMES)} < means.keys()
