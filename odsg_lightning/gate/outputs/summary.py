"""The result as Markdown, for the summary of a CI job."""

from pathlib import Path

from odsg_lightning.files import writing
from odsg_lightning.gate.outputs.terminal import changed_lists, headline, interval, is_quiet
from odsg_lightning.gate.result import SHOWN, GateResult
from odsg_lightning.text import markdown, number

_SIGNS = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "no data": "❌"}


def append_summary(result: GateResult, path: Path, strict: bool = False) -> None:
    """Append the result to a file, such as the one that ``$GITHUB_STEP_SUMMARY`` names.

    Raises:
        UserInputError: the file cannot be written.
        DiskError: the disk is full, or fails.
    """
    with writing(path, "append the summary to"), path.open("a", encoding="utf-8") as file:
        file.write(result_as_markdown(result, strict))


def result_as_markdown(result: GateResult, strict: bool = False) -> str:
    """Return the verdict, the checks, and the objects that fell."""
    lines = ["## odsg gate", "", f"**{markdown(headline(result, strict), 400)}**", ""]
    lines += [f"- Not comparable: {markdown(reason, 1000)}" for reason in result.reasons]
    lines += [f"- Warning: {markdown(warning, 400)}" for warning in result.warnings]
    if result.n_accepted > 1:
        lines += [
            "",
            f"Compared with {result.n_accepted} accepted trainings: each margin begins at the lowest of them.",
        ]
    shown = [check for check in result.checks if not is_quiet(check)]
    if shown:
        lines += [
            "",
            "| check | level | verdict | baseline | candidate | change | limit |",
            "|---|---|---|--:|--:|---|--:|",
        ]
    lines += [
        f"| {markdown(check.name)} | {check.level} | {_SIGNS[check.verdict]} {check.verdict.upper()} "
        f"| {number(check.baseline)} | {number(check.candidate)} | {interval(check)} "
        f"| {number(check.threshold, signed=not check.is_floor)} |"
        for check in shown
    ]
    quiet = len(result.checks) - len(shown)
    lines += ["", f"{quiet} checks of categories passed, {len(result.skipped_checks)} were left out."]
    for title, objects in changed_lists(result):
        lines += ["", f"### {title}", "", "| category | baseline | candidate | file | image | annotation |"]
        lines.append("|---|--:|--:|---|--:|--:|")
        lines += [
            f"| {markdown(changed.category, 40)} | {number(changed.baseline)} | {number(changed.candidate)} "
            f"| {markdown(changed.file_name)} | {changed.image_id} | {changed.annotation_id} |"
            for changed in objects[:SHOWN]
        ]
        if len(objects) > SHOWN:
            lines += ["", f"and {len(objects) - SHOWN} more"]
    if result.strips:
        folder = next(iter(result.strips.values())).parent
        lines += ["", f"Pictures of {len(result.strips)} objects: {markdown(str(folder), 300)}"]
    return "\n".join(lines) + "\n\n"
