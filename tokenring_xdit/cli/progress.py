"""A bar for long work, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

__all__ = ["progress"]


@contextmanager
def progress(name: str) -> Iterator[Callable[[int, int, object], None]]:
    """A bar that is gone when the work is over.

    Args:
        name: What the bar is called.

    Yields:
        Whom to tell how many parts are done, of how many, and what comes next.
    """
    with tqdm(desc=name, leave=False, miniters=1, mininterval=0.5) as bar:

        def show(done: int, total: int, what: object) -> None:
            bar.total = total
            bar.set_postfix_str(str(what), refresh=False)
            bar.update(done - bar.n)
            if sys.stderr.isatty():  # elsewhere lines add up
                bar.refresh()

        yield show
