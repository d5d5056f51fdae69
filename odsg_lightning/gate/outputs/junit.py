"""The result as JUnit XML: one test case per check, for the test tab of a pull request."""

from pathlib import Path
from xml.etree import ElementTree

from odsg_lightning.files import write_text
from odsg_lightning.gate.result import CheckResult, GateResult
from odsg_lightning.text import plain


def write_junit(result: GateResult, path: Path, strict: bool = False) -> None:
    """Write the result, whole or not at all.

    A failed check of level error is a failure, one without data an error. What does not decide the exit code is
    skipped with its sentence: a check of level warn that did not pass, and, without ``strict``, an inconclusive one.

    Raises:
        UserInputError: the file cannot be written.
        DiskError: the disk is full, or fails.
    """
    suite = ElementTree.Element("testsuite", name="odsg gate")
    for check in result.checks:
        case = ElementTree.SubElement(suite, "testcase", classname="odsg.gate", name=plain(check.name, 200))
        outcome = _outcome(check, strict)
        if outcome:
            message = f"{check.verdict.upper()}: {check.sentence}"
            ElementTree.SubElement(case, outcome, message=plain(message, 500)).text = plain(message, 500)
    if result.verdict == "not comparable":
        case = ElementTree.SubElement(suite, "testcase", classname="odsg.gate", name="comparable")
        reasons = "\n".join(plain(reason, 1000) for reason in result.reasons)
        ElementTree.SubElement(case, "error", message="NOT COMPARABLE").text = reasons
    suite.set("tests", str(len(suite)))
    if result.n_accepted > 1:
        properties = ElementTree.SubElement(suite, "properties")
        ElementTree.SubElement(properties, "property", name="accepted trainings", value=str(result.n_accepted))
    if result.warnings:
        warnings = "\n".join(plain(warning, 1000) for warning in result.warnings)
        ElementTree.SubElement(suite, "system-out").text = warnings
    for outcome, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{outcome}"))))
    ElementTree.indent(suite)
    write_text(path, f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(suite, encoding="unicode")}\n')


def _outcome(check: CheckResult, strict: bool) -> str | None:
    if check.verdict == "pass":
        return None
    if check.level == "warn" or (check.verdict == "inconclusive" and not strict):
        return "skipped"
    return "error" if check.verdict == "no data" else "failure"
