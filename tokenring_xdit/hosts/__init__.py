"""One folder for each host library that TokenRing plugs into; what is the same for all of them beside these folders."""

from tokenring_xdit.hosts.installation import INSTALLATION, Installation

__all__ = ["installed"]


def installed() -> Installation:
    """What this package has changed in this process outside of itself: to be listed, and undone.

    Returns:
        ``.changes`` says what was changed, by what and why; ``.undo()`` puts everything back.
    """
    return INSTALLATION
