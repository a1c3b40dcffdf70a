"""What every rank finds when it starts, whoever starts it."""

from __future__ import annotations

import os

__all__ = ["quieten", "rank_environment"]


def rank_environment(ranks: int) -> dict[str, str]:
    """Environment variables for a rank where the user has not set them.

    Args:
        ranks: How many share this machine.
    """
    return {
        "LOG_LEVEL": "error",  # xfuser's own level; debug by default
        "TRANSFORMERS_VERBOSITY": "error",  # what it says of packages that nothing here needs
        "PYTHONWARNINGS": "ignore",  # deprecations inside xfuser and diffusers, on every rank
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks)),
    }


def quieten() -> None:
    """Leave the terminal to the progress bar, to errors, and to what ``auto`` chose."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    from tokenring_xdit.attention.auto import show_choices

    show_choices()
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
