"""What a check of an adapter says: findings in plain words, as a table, as an error."""

from dataclasses import dataclass
from io import StringIO
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from odsg_lightning.errors import UserInputError
from odsg_lightning.text import printable

Status = Literal["ok", "undecided", "warning", "failure"]

Verdict = tuple[Status, str]
"""What one check says: the status and the words of a :class:`Finding`."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: its name.
        status: ``"ok"``; ``"undecided"``: this image cannot tell; ``"warning"``: audits run, and may measure something
            else than they say; ``"failure"``: they do not run, or what they measure is wrong.
        words: what was seen, and what to do.
    """

    check: str
    status: Status
    words: str


@dataclass(frozen=True)
class AdapterCheck:
    """All findings of :func:`odsg_lightning.check_adapter`, in the order in which to mend them.

    Attributes:
        findings: one for each thing that was looked at; checks that need an earlier one that failed are left out.

    Example:
        >>> check = AdapterCheck((Finding("scores", "failure", "A score of 3.2: apply sigmoid."),))
        >>> check.ok
        False
        >>> check.raise_for_failures()
        Traceback (most recent call last):
        odsg_lightning.errors.UserInputError: The adapter cannot be audited as it is. scores: A score of 3.2: apply ...
    """

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed; there may be warnings."""
        return not self.of_status("failure")

    def of_status(self, *statuses: Status) -> tuple[Finding, ...]:
        """Return the findings with one of these statuses."""
        return tuple(finding for finding in self.findings if finding.status in statuses)

    def __getitem__(self, check: str) -> Finding:
        """Return the finding of a check by its name.

        Raises:
            KeyError: it was not made.
        """
        for finding in self.findings:
            if finding.check == check:
                return finding
        raise KeyError(check)

    def raise_for_failures(self) -> None:
        """Do nothing if nothing failed.

        Raises:
            UserInputError: with the words of all that failed.
        """
        failures = self.of_status("failure")
        if failures:
            words = "\n".join(f"{finding.check}: {finding.words}" for finding in failures)
            raise UserInputError(f"The adapter cannot be audited as it is. {printable(words)}")

    def __str__(self) -> str:
        """Return a table of the findings, 100 columns wide at most, without colours."""
        table = Table(show_lines=True)
        for name in ("check", "result", "what was seen, and what to do"):
            table.add_column(name, no_wrap=name == "result")
        for finding in self.findings:
            table.add_row(finding.check, finding.status, escape(printable(finding.words)))
        text = StringIO()
        Console(file=text, width=100, color_system=None).print(table)
        return text.getvalue()
