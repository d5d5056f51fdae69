"""Records that lack values: of an earlier version, or audited without hiding pixels."""

from dataclasses import replace

from helpers.records import as_missed, make_record, with_rows

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.gate import GateConfig, Rule, compare
from odsg_lightning.gate.config_file import parse_gate_config
from odsg_lightning.names import OCCLUSION_NAMES
from odsg_lightning.records.record import AuditRecord

NEW_SETTINGS = AuditConfig().measured.keys() & {
    *("near_threshold", "near_margin", "occlusion", "sufficiency_margin", "necessity_margin")
}


def of_earlier_version(record: AuditRecord) -> AuditRecord:
    """As a record of an earlier version is read."""

    def without(row):
        if row.iof is None:
            return row
        iof = {name: None if name.endswith("near") else value for name, value in row.iof.items()}
        return replace(row, iof=iof, box_maps={}, occlusion={}, detected_again={})

    settings = {name: value for name, value in record.fingerprint.items() if name not in NEW_SETTINGS}
    return with_rows(replace(record, fingerprint=settings), without)


RECORD = make_record(20, 3)
OLD = of_earlier_version(RECORD)


def test_two_records_of_an_earlier_version_are_not_comparable_and_it_says_what_to_do():
    result = compare(OLD, OLD)
    assert (result.verdict, result.exit_code()) == ("not comparable", 3)
    assert result.reasons == (
        "occlusion/sufficiency, occlusion/necessity, collapsed: no values, because both records are of an earlier "
        "version, which did not measure them. Audit both checkpoints again (`odsg audit`), or switch them off in "
        "gate.yaml: `checks: {occlusion/sufficiency: {level: off}, occlusion/necessity: {level: off}, collapsed: "
        "{level: off}}`.",
    )


def test_what_the_reason_says_to_write_switches_the_checks_off():
    import yaml

    text = compare(OLD, OLD).reasons[0].split("`")[-2]
    assert compare(OLD, OLD, parse_gate_config(yaml.safe_load("{" + text + "}"))).verdict == "pass"


def test_one_of_an_earlier_version_is_named_beside_what_differs():
    for pair, side in (((OLD, RECORD), "baseline"), ((RECORD, OLD), "candidate")):
        result = compare(*pair)
        assert result.verdict == "not comparable"
        assert len(result.reasons) == 1 + len(NEW_SETTINGS)
        assert any("The audits differ in near_threshold: " in reason for reason in result.reasons)
        assert result.reasons[-1] == (
            f"The {side} is the record of an earlier version, which measured less: audit its checkpoint again "
            "(`odsg audit`)."
        )


def test_audits_without_occlusion_say_so():
    record = make_record(20, 3, occlusion=False)
    result = compare(record, record)
    assert (result.verdict, result.exit_code()) == ("not comparable", 3)
    assert result.reasons == (
        "occlusion/sufficiency, occlusion/necessity: no values, because both audits were made without hiding pixels "
        "(occlusion: False). Audit both checkpoints again with occlusion, or switch them off in gate.yaml: `checks: "
        "{occlusion/sufficiency: {level: off}, occlusion/necessity: {level: off}}`.",
    )
    off = {f"occlusion/{name}": Rule(level="off") for name in OCCLUSION_NAMES}
    assert compare(record, record, GateConfig(checks=off)).verdict == "pass"
    differing = compare(record, RECORD)
    assert any("differ in occlusion: False in the baseline, " in reason for reason in differing.reasons)


def test_a_candidate_that_detects_nothing_is_said_to():
    result = compare(RECORD, with_rows(RECORD, as_missed))
    assert result.verdict == "not comparable"
    assert result.reasons == (
        "occlusion/sufficiency, occlusion/necessity, defined, collapsed: no values, because the candidate detects none "
        "of the 60 objects.",
    )


def test_a_regression_goes_before_what_is_missing():
    worse = with_rows(OLD, lambda row: replace(row, matched_samples=0) if not row.missed else row)
    result = compare(OLD, worse, GateConfig(checks={"match_rate": Rule()}))
    assert result.verdict == "regression"
    assert result.reasons
