"""What is wrong with the records of one file, by kind: what cannot be used at all, and what is mended and counted."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from odsg_lightning.errors import BrokenInputError, MissingFileError

MISSING_FILES = "images without a file"
LOST_OBJECTS = "Average precision is computed without the objects left out."

_EXAMPLES = 3
_SHOWN = 10


class BadRecordError(ValueError):
    """A record that cannot be used.

    Args:
        kind: what it has in common with others, in the plural: ``"boxes without a size"``.
        message: why it cannot be used: what was expected and what came.
        fatal: leaving the record out is no cure.
    """

    def __init__(self, kind: str, message: str, *, fatal: bool = False) -> None:
        """Keep the kind beside the message."""
        super().__init__(message)
        self.kind, self.fatal = kind, fatal


class Findings:
    """Records by what they have in common: a count and three examples of each kind."""

    def __init__(self) -> None:
        """Begin with none."""
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Count a record, and keep it as an example if it is among the first of its kind."""
        self.counts[kind] += 1
        if self.counts[kind] <= _EXAMPLES:
            self._examples.setdefault(kind, []).append(example)

    @property
    def lines(self) -> list[str]:
        """One line for each kind."""
        return [
            f"{count} {kind}: {'; '.join(self._examples[kind])}{'; ...' * (count > _EXAMPLES)}"
            for kind, count in self.counts.items()
        ]

    def __str__(self) -> str:
        """The lines as a list."""
        return "\n".join(f"  - {line}" for line in self.lines)


class Problems(Findings):
    """Records of one file that cannot be used, collected so that all of them are reported at once."""

    def __init__(self, source: Path) -> None:
        """Collect problems of the file ``source``."""
        super().__init__()
        self.source = source
        self.fatal = False

    def refuse(self, record: str, problem: BadRecordError) -> None:
        """Note a record that cannot be used."""
        self.add(problem.kind, f"{record}: {problem}")
        self.fatal |= problem.fatal

    def error(self) -> BrokenInputError:
        """Return the error to raise: MissingFileError if image files are missing and nothing else is wrong."""
        cure = (
            "Correct the file"
            if self.fatal
            else 'Correct the file, or leave these records out: bad_records="skip" (on the command line --bad-records '
            "skip, of `odsg fit` --data.bad_records skip)"
        )
        count = self.counts.total()
        message = (
            f"Expected all records of {self.source} to be usable, but got {count} problem{'s' * (count != 1)}. "
            f"{cure}.\n{self}"
        )
        return MissingFileError(message) if set(self.counts) == {MISSING_FILES} else BrokenInputError(message)


def list_problems(lines: Sequence[str]) -> str:
    """Join the first ten problems, one a line, and the count of the rest."""
    rest = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join(f"  - {line}" for line in [*lines[:_SHOWN], *rest])
