"""Which keys of a shard count: padding and masked text stay out of the softmax.

Where keys stay at home their mask does too: it is a matter of the rank that holds them, nobody has to
be told, and no kernel has to know about masks, as hidden keys are left out instead of being added
``-inf``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenring_xdit.errors import UnsupportedError

__all__ = ["KeyMask"]


class KeyMask:
    """The keys of one rank's shard that count, prepared once for many calls.

    Args:
        real: ``[B, Skv]``, or ``[1, Skv]`` for all items of a batch alike; bool, ``True`` where a key
            counts. A mask on a GPU is copied to the host here, once.

    Raises:
        UnsupportedError: ``real`` is of another form.
    """

    def __init__(self, real: Tensor) -> None:
        if real.ndim != 2 or real.dtype != torch.bool:
            raise UnsupportedError(
                f"a key mask has to be bool [B, Skv], True where a key counts; got {real.dtype} {tuple(real.shape)}"
            )
        self.shape = tuple(real.shape)
        rows = real.cpu()
        self.ragged = bool((rows != rows[:1]).any())
        """Whether the items of a batch differ."""
        self._everything = bool(rows.all())
        kept = rows if self.ragged else rows[:1]
        self._positions = [row.nonzero()[:, 0] for row in kept]
        self._places: tuple[Tensor, Tensor] | None = None

    def check(self, k: Tensor, name: str) -> None:
        """Refuse keys ``[B, Hkv, Skv, D]`` that this mask was not made for.

        Raises:
            UnsupportedError: Batch or length differ.
        """
        batch, length = self.shape
        if length != k.shape[2] or batch not in (1, k.shape[0]):
            raise UnsupportedError(f"{name} {self.shape} does not fit keys {tuple(k.shape)} [B, Hkv, Skv, D]")

    def select(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values that count, where they are the same for every item."""
        if self._everything or self.ragged:
            return k, v
        (positions,) = self._on(k.device)
        return k.index_select(2, positions), v.index_select(2, positions)

    def item(self, item: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values that count for one item of the batch, ``[1, Hkv, S_item, D]``."""
        positions = self._on(k.device)[item if self.ragged else 0]
        return k[item : item + 1].index_select(2, positions), v[item : item + 1].index_select(2, positions)

    def counted(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The keys and values that count, those of each item first, for kernels that are told how many they are.

        Args:
            k: Keys, ``[B, Hkv, Skv, D]``.
            v: Values, likewise.

        Returns:
            Keys and values ``[B, Hkv, S, D]``, as many as the item has that hides fewest, and how many of each item
            count, ``[B]``, int32, on their device. Behind those that count an item has its first one again.
        """
        if self._places is None or self._places[0].device != k.device:
            rows = self._on(k.device)
            counts = torch.tensor([len(row) for row in rows], dtype=torch.int32)
            padded = pad_sequence(rows, batch_first=True)
            first = padded[:, :1] if padded.shape[1] else padded
            behind = torch.arange(padded.shape[1])[None] >= counts[:, None]
            self._places = torch.where(behind.to(k.device), first, padded), counts.to(k.device)
        places, counts = self._places
        index = places[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
        return k.gather(2, index), v.gather(2, index), counts

    def _on(self, device: torch.device) -> list[Tensor]:
        if self._positions and self._positions[0].device != device:
            self._positions = [positions.to(device) for positions in self._positions]
        return self._positions
