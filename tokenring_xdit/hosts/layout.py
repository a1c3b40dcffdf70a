"""Which of the tokens that each rank holds are real keys: no padding, no masked text.

Host libraries pad sequences so that every rank gets as many tokens, and some models mask text. TokenRing
does not send keys, so each rank leaves the others out of its own keys, without messages. Code before a model call
declares what its tokens are; attention reads that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from tokenring_xdit.attention import DeviceKeyMask, KeyMask
from tokenring_xdit.compat.torch import outside_graphs
from tokenring_xdit.hosts.running import RUNNING, decided_on_the_host, may_be_recorded

__all__ = [
    "KeyLayout",
    "active_layout",
    "all_real",
    "cut",
    "key_layout",
    "padding",
    "sequence_layout",
    "set_layout",
]


def padding(tokens: int, ranks: int) -> int:
    """Tokens that are missing for a multiple of ``ranks``."""
    return -tokens % ranks


def cut(real: Tensor, ranks: int) -> Tensor:
    """Cut a mask of whole sequences as their tokens are cut: padded at the end, one piece a rank.

    Args:
        real: ``[B, S]``, bool.
        ranks: Sequence-parallel ranks.

    Returns:
        ``[B, ranks, ceil(S / ranks)]``, padding being ``False``.
    """
    missing = padding(real.shape[1], ranks)
    return pad(real, (0, missing)).view(real.shape[0], ranks, -1)


class KeyLayout:
    """The keys of one model call, on all sequence-parallel ranks.

    Args:
        real: ``[B, ranks, S]``, or ``[1, ranks, S]`` for all items of a batch alike: which of the ``S``
            tokens in a rank's shard are real.
        replicated_real: ``[B, T]`` or ``[1, T]``: the same for tokens that every rank holds alike and
            that reach attention as joint tensors; ``None`` where all of them are real.
        replicated_in_front: Tokens at the front of every rank's sequence that it shares with all
            others, although they are no joint tensors.
        computed: Whether both masks are computed by operators from what the call is given. A call that may be recorded
            then leaves it on the device, where each replay computes it again, until somebody has it :meth:`read`.

    Attributes:
        key: Equal for equal layouts: what the ranks' agreement on shapes is remembered by.
        on_device: Whether the host has not looked at the mask.
    """

    def __init__(
        self,
        real: Tensor,
        *,
        replicated_real: Tensor | None = None,
        replicated_in_front: int = 0,
        computed: bool = False,
    ) -> None:
        self._real, self._replicated = real, replicated_real
        self._home: KeyMask | None = None
        self._masks: dict[tuple[int, int], KeyMask | None] = {}
        self.replicated_in_front = replicated_in_front
        self._hides, self.on_device = True, True
        self._count = 0
        self.key: Hashable = ("on the device", tuple(real.shape), replicated_in_front)
        if not computed or not may_be_recorded():
            self.read("which keys are real is read from a mask in each call")
        elif replicated_real is not None:
            self._home = DeviceKeyMask(replicated_real, settled=True)

    def read(self, why: str) -> None:
        """Have the host look at the mask, so that hidden keys are left out of what is planned.

        Args:
            why: In a clause, for whoever asks why the call is not recorded.
        """
        decided_on_the_host(why)
        self._real = self._real.cpu()
        self._hides, self.on_device = not bool(self._real.all()), False
        if self._replicated is not None:
            self._home = KeyMask(self._replicated)
            self._hides |= not bool(self._replicated.all())
        self._count = int(self._real[0].sum())
        self._masks.clear()
        digest = hashlib.sha256(self._real.numpy().tobytes()).hexdigest()
        self.key = (tuple(self._real.shape), digest, self.replicated_in_front)

    @classmethod
    def of_segments(cls, *segments: Tensor, replicated_in_front: int = 0, computed: bool = False) -> KeyLayout:
        """A layout of sequences that were cut on their own and lie one behind the other on each rank.

        Args:
            *segments: ``[B or 1, ranks, S_i]``, as :func:`cut` makes them; on one device where they are computed.
            replicated_in_front: As for the class.
            computed: As for the class.
        """
        batch = max(segment.shape[0] for segment in segments)
        here = segments if computed else [segment.cpu() for segment in segments]
        joined = torch.cat([segment.expand(batch, -1, -1) for segment in here], dim=2)
        return cls(joined, replicated_in_front=replicated_in_front, computed=computed)

    def own(self, ring_rank: int, ulysses_degree: int) -> KeyMask | None:
        """The mask of the keys that a rank holds after the Ulysses exchange; ``None`` where all are real.

        Args:
            ring_rank: Rank in the ring group.
            ulysses_degree: Ranks whose shards the exchange laid one behind the other.
        """
        place = (ring_rank, ulysses_degree)
        if place not in self._masks:
            first = ring_rank * ulysses_degree
            real = self._real[:, first : first + ulysses_degree].flatten(1)
            if self.on_device:
                self._masks[place] = DeviceKeyMask(real, settled=True)
            else:
                self._masks[place] = None if bool(real.all()) else KeyMask(real)
        return self._masks[place]

    def count(self) -> int:
        """How many of a sequence's tokens are real, of the first item."""
        if self.on_device:
            self.read("how many keys are real is read from a mask in each call")
        return self._count

    @property
    def hides_keys(self) -> bool:
        """Whether any key of any rank is not real, or may be so where the host has not looked."""
        return self._hides

    @property
    def home(self) -> KeyMask | None:
        """The mask of joint tensors; ``None`` where all of them are real."""
        return self._home


def all_real(tokens: int, device: torch.device | None = None) -> Tensor:
    """The mask of a sequence without padding, ``[1, tokens]``."""
    return torch.ones(1, tokens, dtype=torch.bool, device=device)


@outside_graphs
@lru_cache(maxsize=32)
def sequence_layout(ranks: int, *lengths: int) -> KeyLayout:
    """The layout of sequences that are padded at their ends and cut, one behind the other on each rank."""
    return KeyLayout.of_segments(*(cut(all_real(length), ranks) for length in lengths))


def active_layout() -> KeyLayout | None:
    """The layout of the model call that is running, where somebody has set one."""
    return RUNNING.layout


class key_layout:  # noqa: N801
    """Sets the layout for the model calls inside a ``with``; :func:`set_layout` may change it meanwhile.

    A class, as ``torch.compile`` does not take the generator of a ``contextmanager``.

    Args:
        layout: What the calls inside work on; ``None`` hides nothing.
    """

    def __init__(self, layout: KeyLayout | None) -> None:
        self._layout = layout
        self._before: KeyLayout | None = None

    def __enter__(self) -> None:
        self._before = active_layout()
        set_layout(self._layout)

    def __exit__(self, *error: object) -> None:
        set_layout(self._before)


def set_layout(layout: KeyLayout | None) -> None:
    """Change the layout inside :func:`key_layout`, for models whose blocks work on other sequences by turns."""
    RUNNING.layout = layout
