"""What every rank finds in its environment when it starts."""

from __future__ import annotations

import os

__all__ = ["INIT_METHOD_VARIABLE", "STORE_VARIABLE", "local_environment", "rank_environment"]

INIT_METHOD_VARIABLE = "TOKENRING_INIT_METHOD"
"""Environment variable of each rank: what ``torch.distributed.init_process_group(init_method=...)`` takes."""

STORE_VARIABLE = "TOKENRING_STORE_SOCKET"
"""Environment variable of ranks that join at a store of the first one, at ``MASTER_ADDR`` and ``MASTER_PORT``.

Of that rank the descriptor of a socket that listens there; empty of the others."""


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
        "TOKENRING_AGREEMENT_TIMEOUT": "1800",  # others may wait while the first rank saves a long video
    }


def local_environment(rank: int, ranks: int, init_method: str, *, first: int = 0, total: int = 0) -> dict[str, str]:
    """The whole environment of a rank whose world is on this machine.

    Its sockets listen on the loopback, whatever the user's variables say for runs on several nodes.

    Args:
        rank: Its number.
        ranks: Size of its world.
        init_method: Where its world joins.
        first: Ranks of other worlds that come before, on this machine.
        total: Ranks of all worlds; ``ranks`` by default.
    """
    return {
        **rank_environment(total or ranks),
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": str(first + rank),
        "LOCAL_WORLD_SIZE": str(total or ranks),
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        INIT_METHOD_VARIABLE: init_method,
    }
