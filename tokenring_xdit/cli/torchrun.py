"""What commands that torchrun may start share."""

from __future__ import annotations

from tokenring_xdit.errors import ConfigurationError

__all__ = ["refuse_other_ranks"]


def refuse_other_ranks(asked: int | None, started: int) -> None:
    """Refuse another number of ranks than torchrun has started.

    Args:
        asked: By ``--ranks``; ``None`` where it was left out.
        started: By torchrun.

    Raises:
        ConfigurationError: They are not as many.
    """
    if asked not in {None, started}:
        raise ConfigurationError(
            f"--ranks {asked} was asked for and torchrun started {started}: leave --ranks out under torchrun"
        )
