#!/usr/bin/env bash
# Audits a candidate checkpoint and holds it against the accepted baseline. Both CI recipes run this, and so can you:
#
#   CHECKPOINT=candidate.ckpt bash examples/ci/audit_and_gate.sh --device cpu
#
# Arguments go to `odsg audit` (of a .pth or .pkl file, --config says which detector it is). From the environment:
#   CHECKPOINT  the candidate
#   AUDIT_SET   made once with `odsg audit-set`; default audit/audit_set.json
#   BASELINE    accepted with `odsg baseline accept`; default audit/baseline.json
#   MARGINS     settings of the gate; default audit/gate.yaml if there is one, otherwise the gate's own
#   RESULTS     folder for the record, the report, gate.json, junit.xml and strips/; default odsg-results
#
# Exit code: 0 pass, 1 regression or, because of --strict, inconclusive, 2 wrong arguments, 3 not comparable or broken
# input, 70 a fault of odsg, 74 an error of the machine (a full disk, no permission).
set -euo pipefail

if [[ -z ${CHECKPOINT:-} ]]; then
  echo "Expected CHECKPOINT to name the checkpoint to audit, but it is empty." >&2
  exit 2
fi
audit_set=${AUDIT_SET:-audit/audit_set.json}
baseline=${BASELINE:-audit/baseline.json}
margins=${MARGINS:-audit/gate.yaml}
results=${RESULTS:-odsg-results}
candidate=$results/candidate.json

mkdir -p "$results"
odsg audit "$CHECKPOINT" --audit-set "$audit_set" -o "$candidate" "$@"

settings=()
if [[ -n ${MARGINS:-} || -e $margins ]]; then settings=(--config "$margins"); fi
verdict=0
# --strict: what is inconclusive is refused, too, because a regression that some images show widens the interval.
# --checkpoint: the record that is judged is that of the checkpoint that would be merged.
odsg gate "$baseline" "$candidate" --strict --checkpoint "$CHECKPOINT" "${settings[@]}" \
  --json "$results/gate.json" --junit "$results/junit.xml" --strips "$results/strips" || verdict=$?

# A refused candidate is the one whose report is read. What the gate said stays the exit code.
odsg report "$baseline" "$candidate" -o "$results/report.html" || verdict=$((verdict == 0 ? $? : verdict))
exit "$verdict"
