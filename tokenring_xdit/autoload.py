"""Attaches TokenRing to xfuser in every program that imports both torch and xfuser, the `xdit` command among them.

torch calls the entry points of the group ``torch.backends`` at the end of ``import torch``, in child
processes too. :func:`attach` only registers for the import of xfuser; a program that never does
that notices nothing. ``TOKENRING_AUTOLOAD=0`` switches it off, and ``TORCH_DEVICE_BACKEND_AUTOLOAD=0``
does so for everything that loads itself this way.
"""

from __future__ import annotations

import logging
import os

__all__ = ["AUTOLOAD", "attach"]

AUTOLOAD = "TOKENRING_AUTOLOAD"
"""Environment variable: 0 leaves xfuser alone until ``register()`` is called."""

_FIRST_OF_XFUSER = "xfuser.logger"
"""What ``import xfuser`` imports before anything that TokenRing changes."""

log = logging.getLogger("tokenring_xdit")


def attach() -> None:
    """Have TokenRing registered as soon as xfuser is imported.

    Never raises: an exception would break ``import torch`` in every program of the machine.
    """
    if os.environ.get(AUTOLOAD) == "0":
        return
    try:
        import wrapt

        wrapt.register_post_import_hook(_register, _FIRST_OF_XFUSER)
    except Exception:
        log.warning("TokenRing could not attach itself to xfuser", exc_info=True)


def _register(module: object) -> None:
    try:
        from tokenring_xdit.hosts import installed
        from tokenring_xdit.hosts.xfuser import register

        if not installed().undone:
            register(tolerant=True)
    except Exception:
        log.warning("TokenRing could not attach itself to xfuser; --tokenring_degree is not known", exc_info=True)
