"""What each rank serves that torchrun started for a checkup, on one node or several; see :mod:`..workers.torchrun`.

They are there once, so the same ranks serve what other checkups have several worlds for: calls, the probe, sweeps.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from tokenring_xdit.attention.member import AGREEMENT_TIMEOUT_VARIABLE
from tokenring_xdit.bench import rank as sweep_rank
from tokenring_xdit.bench.instruments import join_sweep
from tokenring_xdit.devices import gpu_count
from tokenring_xdit.doctor.commands import CheckCall, TimeCall, TimeMessages, TinyCall
from tokenring_xdit.doctor.pools import PATIENCE
from tokenring_xdit.doctor.rank import DoctorRank, calls_of
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.probe import rank as probe_rank
from tokenring_xdit.workers.loop import Commands, Mailbox

__all__ = ["MESSAGES", "commands"]

MESSAGES = (
    *sweep_rank.MESSAGES,
    *probe_rank.MESSAGES,
    *(CheckCall, TimeCall, TimeMessages, TinyCall),
)
"""Commands and answers."""

_LATE = timedelta(seconds=60)


def commands(mailbox: Mailbox) -> Commands:
    """Join the other ranks, once all have told that they can."""
    os.environ.setdefault(AGREEMENT_TIMEOUT_VARIABLE, PATIENCE)
    _refuse_together(mailbox.store)
    device = join_sweep(mailbox.store)
    return {
        **calls_of(DoctorRank(device), probe_rank.ProbeRank(device)),
        **sweep_rank.commands_on(device),
    }


def _refuse_together(store: Any) -> None:
    """Refuse ranks of which some have a GPU and some have none: they could not talk to each other.

    Raises:
        UnsupportedError: The same on all ranks.
    """
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    gpus = gpu_count()
    lacks = 0 < gpus <= int(os.environ.get("LOCAL_RANK", "0"))
    said = f"has no GPU left of the {gpus} of its node" if lacks else "has a GPU" if gpus else "has no GPU"
    store.set(f"device/{rank}", f"{said}, on {socket.gethostname()}")
    keys = [f"device/{each}" for each in range(ranks)]
    try:
        store.wait(keys, _LATE)
    except dist.DistStoreError as error:
        late = [str(each) for each, key in enumerate(keys) if not store.check([key])]
        raise UnsupportedError(
            f"rank{'s' * (len(late) > 1)} {', '.join(late)} did not join within {_LATE.seconds} s: look at "
            "what torchrun printed on their node"
        ) from error
    found = [store.get(key).decode() for key in keys]
    kinds = {words.partition(",")[0]: each for each, words in reversed([*enumerate(found)])}
    if len(kinds) > 1 or lacks:
        some = "; ".join(f"rank {each} {found[each]}" for each in sorted(kinds.values()))
        raise UnsupportedError(
            f"a checkup needs a GPU for each rank, or none on any node: {some}. Start as many ranks a node as it has "
            'GPUs, or hide them with CUDA_VISIBLE_DEVICES=""'
        )
