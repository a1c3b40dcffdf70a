"""What ranks keep to themselves."""

from __future__ import annotations

__all__ = ["quieten"]


def quieten() -> None:
    """Leave the terminal to the progress bar, to errors, and to what ``auto`` chose."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    from tokenring_xdit.attention.auto import show_choices

    show_choices()
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
