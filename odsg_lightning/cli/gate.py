"""``odsg gate``, ``odsg baseline`` and ``odsg calibrate``."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from odsg_lightning.environment import in_ci
from odsg_lightning.errors import UserInputError

_EXIT_CODES = (
    "exit code: 0 pass, 1 regression, 2 wrong usage, 3 not comparable or broken input, 70 anything unexpected, "
    "74 error of the machine (full disk, no permission)"
)


def add(subcommands: Any) -> None:
    """Describe the subcommands."""
    gate = subcommands.add_parser(
        "gate",
        help="refuse a candidate whose audit is worse",
        epilog=_EXIT_CODES,
        usage="odsg gate [options] baseline candidate\n       odsg gate [options] --no-baseline candidate",
    )
    gate.add_argument("baseline", type=Path, help="accepted record: see odsg baseline accept")
    candidate = gate.add_argument("candidate", type=Path, help="record of the candidate: see odsg audit")
    gate.add_argument(
        "--no-baseline",
        action=_CandidateAlone,
        candidate=candidate,
        help="only warn, of what lies below the floors; for a team that has accepted nothing yet",
    )
    gate.add_argument("--config", type=Path, metavar="gate.yaml", help="margins, floors and levels of the checks")
    gate.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="the candidate's checkpoint: refuse the record of another one"
    )
    gate.add_argument("--strict", action="store_true", help="inconclusive fails, too")
    gate.add_argument("--ignore-seed", action="store_true", help="compare audits under different seeds")
    gate.add_argument("--json", type=Path, metavar="FILE", help="write the result for programs")
    gate.add_argument("--junit", type=Path, metavar="FILE", help="write the result for the test tab of CI")
    gate.add_argument("--strips", type=Path, metavar="FOLDER", help="write pictures of the objects that fell most")
    gate.set_defaults(run=_gate)

    baseline = subcommands.add_parser("baseline", help="accept an audit as the baseline of the gate")
    accept = baseline.add_subparsers(metavar="accept", required=True).add_parser(
        "accept", help="accept a record, with the reason; refused in CI"
    )
    accept.add_argument(
        "candidates",
        type=Path,
        nargs="+",
        metavar="record",
        help="audit to accept; several of different trainings: the gate compares with what they span",
    )
    accept.add_argument("-o", "--output", type=Path, required=True, help="the baseline; its history of reasons is kept")
    accept.add_argument("--reason", required=True, help="why it is right, for whoever reads it in a year")
    accept.add_argument("--without-maps", action="store_true", help="do not copy the maps beside the record")
    accept.add_argument("--reset", action="store_true", help="replace a baseline that was audited in another way")
    accept.set_defaults(run=_accept)

    calibrate = subcommands.add_parser("calibrate", help="propose margins from audits that should pass each other")
    calibrate.add_argument("records", type=Path, nargs="+", help="audits of one checkpoint under several --seed")
    calibrate.add_argument("--retrained", action="store_true", help="they are of checkpoints that you would all accept")
    calibrate.add_argument("-o", "--output", type=Path, metavar="gate.yaml", help="write the margins for odsg gate")
    calibrate.add_argument("--force", action="store_true", help="overwrite that file")
    calibrate.set_defaults(run=_calibrate)


class _CandidateAlone(argparse.Action):
    """With this option the only record is the candidate, wherever the option stands."""

    def __init__(self, candidate: argparse.Action, **kwargs: Any) -> None:
        super().__init__(nargs=0, default=False, **kwargs)
        self._candidate = candidate

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        self._candidate.required = False
        setattr(namespace, self.dest, True)


def _gate(options: argparse.Namespace) -> int:
    from odsg_lightning.errors import BrokenInputError
    from odsg_lightning.gate import GateConfig, GateResult, compare_files, floors_of_file, read_gate_config
    from odsg_lightning.gate.outputs.as_json import write_json
    from odsg_lightning.gate.outputs.junit import write_junit
    from odsg_lightning.gate.outputs.strips import with_strips
    from odsg_lightning.gate.outputs.summary import append_summary
    from odsg_lightning.gate.outputs.terminal import print_result
    from odsg_lightning.text import plain

    baseline, candidate, strict = options.baseline, options.candidate, options.strict
    if options.no_baseline:
        baseline, candidate = None, _only_record(options)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    _refuse_overwriting([baseline, candidate, options.config, options.checkpoint], [options.json, options.junit])
    config = read_gate_config(options.config) if options.config else GateConfig()
    if baseline is None:
        result = floors_of_file(candidate, config, checkpoint=options.checkpoint)
    else:
        if in_ci() and not config.decides:
            raise UserInputError(
                f"Expected at least one check in {options.config} that can fail, of level error and with a floor or a "
                "margin below 1: in CI (the variable CI is set) a gate that passes everything is a mistake."
            )
        result = compare_files(
            baseline, candidate, config, ignore_seed=options.ignore_seed, checkpoint=options.checkpoint
        )
    if options.strips and result.checks:
        try:
            result = with_strips(result, baseline, candidate, options.strips)
        except BrokenInputError as error:
            result = GateResult("not comparable", reasons=(str(error),), sides=result.sides)
    print_result(result, strict)
    for reason in result.reasons:
        print(f"odsg: error: {plain(reason, 2000)}", file=sys.stderr)
    if options.json:
        write_json(result, options.json, strict)
    if options.junit:
        write_junit(result, options.junit, strict)
    if summary:
        append_summary(result, Path(summary), strict)
    return result.exit_code(strict)


def _only_record(options: argparse.Namespace) -> Path:
    if options.candidate is not None:
        raise UserInputError(
            f"Expected one record behind --no-baseline, but got {options.baseline} and {options.candidate}."
        )
    for name in ("strict", "ignore_seed", "strips"):
        if getattr(options, name):
            raise UserInputError(
                f"Expected no --{name.replace('_', '-')} with --no-baseline, which compares and refuses nothing."
            )
    record: Path = options.baseline
    return record


def _refuse_overwriting(inputs: list[Path | None], outputs: list[Path | None]) -> None:
    taken = {os.path.realpath(path) for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        if os.path.realpath(path) in taken:
            raise UserInputError(f"Expected another file than those that are read or written already, but got {path}.")
        taken.add(os.path.realpath(path))


def _accept(options: argparse.Namespace) -> int:
    from odsg_lightning.records.baseline import accept_baseline
    from odsg_lightning.text import number

    if in_ci():
        raise UserInputError(
            "A baseline is accepted by a person who has looked at it, not in CI (the variable CI is set)."
        )
    first, *further = options.candidates
    accepted = accept_baseline(
        first,
        options.output,
        options.reason,
        further=further,
        with_maps=not options.without_maps,
        reset=options.reset,
    )
    together = f" with {len(further)} more trainings" if further else ""
    print(f"Accepted {first}{together} as {options.output}.")
    for name, mean in accepted.after.items():
        before = f"{number(accepted.before[name])} -> " if accepted.before else ""
        print(f"  {name}: {before}{number(mean)}")
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from odsg_lightning.files import write_text
    from odsg_lightning.gate.calibrate import calibrate, calibrated_config
    from odsg_lightning.gate.config_file import gate_config_text
    from odsg_lightning.records.record import read_record
    from odsg_lightning.text import number

    if options.output and not options.force and os.path.lexists(options.output):
        raise UserInputError(f"Expected no file at {options.output}, but there is one: --force overwrites it.")
    records = {str(path): read_record(path) for path in options.records}
    rows = calibrate(records, retrained=options.retrained)
    if len(records) == 2:
        print("Warning: two records say little about the noise: make three or more.", file=sys.stderr)
    print(f"{'check':<22} {'sd':>7} {'largest drop':>13} {'proposed margin':>16}")
    for row in rows:
        print(f"{row.check:<22} {number(row.sd):>7} {number(row.largest_drop):>13} {number(row.proposed):>16}")
    advice = (
        f"These margins cover the differences between these {len(records)} trainings."
        if options.retrained
        else "These margins cover the noise of the seeds alone: audit several trainings that you would\n"
        "accept, and calibrate with --retrained, or widen them by hand."
    )
    print(advice)
    if options.output:
        comment = f"Margins for `odsg gate`, proposed by `odsg calibrate` from {len(records)} audits.\n{advice}"
        write_text(options.output, gate_config_text(calibrated_config(rows), comment))
        print(f"Written: {options.output}")
    return 0
