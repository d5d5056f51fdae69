"""A record all of whose texts are HTML that would run a script."""

from dataclasses import replace

from helpers.records import make_record, with_rows

from odsg_lightning.records.record import AuditRecord

HOSTILE = (
    "</script><script>window.ran=1</script><img src=x onerror=window.ran=1>\"' onfocus=window.ran=1 x=\u202ecba\x07"
)
"""Ends with a mark that turns the direction of the text, and a control character."""


def hostile_record() -> AuditRecord:
    """Six objects, some of them missed, of one category."""
    record = make_record(3, 2, missed=0.3)
    record = with_rows(record, lambda row: replace(row, category=HOSTILE, file_name=f"{HOSTILE}{row.image_id}"))
    provenance = {
        **record.provenance,
        "checkpoint": HOSTILE,
        "git_commit": HOSTILE[:64],
        "versions": {HOSTILE: HOSTILE},
    }
    accepted = ({"reason": HOSTILE, "date": "2026-01-01", "record_sha256": "0" * 64},)
    fingerprint = {**record.fingerprint, "method": HOSTILE, HOSTILE: HOSTILE}
    return replace(record, provenance=provenance, accepted=accepted, fingerprint=fingerprint)
