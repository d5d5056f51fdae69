"""How far an audit is, and how long it will still take: a bar in a terminal, a line a minute in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_EVERY = 60.0  # seconds between two lines


@contextmanager
def audit_progress(images: int, samples_per_image: int) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Show on standard error how far an audit is.

    Args:
        images: number of its images.
        samples_per_image: noise samples of each.

    Yields:
        Two functions to call: one for each noise sample, and one for each image that an earlier call has finished,
        which takes no time and so tells nothing of how long the others will take.
    """
    total = images * samples_per_image
    if sys.stderr.isatty():
        with tqdm(total=total, desc="Audit", unit="sample") as bar:

            def skip_in_bar() -> None:
                bar.total -= samples_per_image
                bar.refresh()

            yield lambda: bar.update() and None, skip_in_bar
    else:
        lines = _Lines(total, samples_per_image)
        yield lines.advance, lines.skip


class _Lines:
    """Prints a line a minute, so that a log shows that the audit is alive."""

    def __init__(self, total: int, samples_per_image: int) -> None:
        self._total, self._samples_per_image = total, samples_per_image
        self._done = self._skipped = 0
        self._began = self._printed = time.monotonic()

    def advance(self) -> None:
        """Count a noise sample."""
        self._done += 1
        now = time.monotonic()
        if now - self._printed < _EVERY:
            return
        self._printed = now
        finished, seconds = self._skipped + self._done, now - self._began
        left = (self._total - finished) * seconds / self._done
        print(
            f"Audit: {finished} of {self._total} noise samples after {_words(seconds)}, about {_words(left)} left.",
            file=sys.stderr,
            flush=True,
        )

    def skip(self) -> None:
        """Count an image that was finished before."""
        self._skipped += self._samples_per_image


def _words(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else "less than a minute"
