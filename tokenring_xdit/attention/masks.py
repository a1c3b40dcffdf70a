"""Which keys of a shard count: padding and masked text stay out of the softmax.

A schedule that does not send keys does not send masks either: only the rank that holds the keys needs their mask.
Kernels need no masks, because hidden keys are left out instead of being added ``-inf``. Where the host must not read a
mask, as in a call that is replayed, kernels get the number of keys that count.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenring_xdit.errors import UnsupportedError

__all__ = ["DeviceKeyMask", "KeyMask"]


class KeyMask:
    """The keys of one rank's shard that count, prepared once for many calls.

    Args:
        real: ``[B, Skv]``, or ``[1, Skv]`` for all items of a batch alike; bool, ``True`` where a key
            counts. A mask on a GPU is copied to the host here, once.

    Raises:
        UnsupportedError: ``real`` is of another form.
    """

    def __init__(self, real: Tensor) -> None:
        self.shape = _shape(real)
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
        """The keys and values that count, those of each item first, for kernels that take key counts.

        Args:
            k: Keys, ``[B, Hkv, Skv, D]``.
            v: Values, likewise.

        Returns:
            Keys and values ``[B, Hkv, S, D]``, as many as the item has that hides fewest, and how many of each item
            count, ``[B]``, int32, on their device. Behind those that count an item has its first one again.
        """
        if self._places is None or self._places[0].device != k.device:
            self._places = self._find_places(k.device)
        places, counts = (each.expand(k.shape[0], *each.shape[1:]) for each in self._places)
        index = places[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
        return k.gather(2, index), v.gather(2, index), counts.contiguous()  # as kernels read it

    def _find_places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where the keys of each item are that count, those first, and how many they are."""
        rows = self._on(device)
        counts = torch.tensor([len(row) for row in rows], dtype=torch.int32)
        places = pad_sequence(rows, batch_first=True)
        behind = torch.arange(places.shape[1])[None] >= counts[:, None]
        return _first_again(places, behind.to(device)), counts.to(device)

    def _on(self, device: torch.device) -> list[Tensor]:
        if self._positions and self._positions[0].device != device:
            self._positions = [positions.to(device) for positions in self._positions]
        return self._positions


class DeviceKeyMask(KeyMask):
    """The same where the host does not look: a recorded call computes with what is in the mask at each replay.

    Plans include all keys. Kernels that take key counts attend only the keys that count.

    Args:
        real: As for :class:`KeyMask`, on the device of the keys.
        settled: Whether it stays what it is while this object is used, as in the layers of one call of a model: where
            its keys are is then found once.

    Raises:
        UnsupportedError: ``real`` is of another form.
    """

    def __init__(self, real: Tensor, *, settled: bool = False) -> None:
        self.shape = _shape(real)
        self.ragged, self._everything = True, False  # for all that is known
        self._real, self._settled = real, settled
        self._places = None

    def check(self, k: Tensor, name: str) -> None:
        """As for :class:`KeyMask`; it has to be where the keys are, too."""
        super().check(k, name)
        if self._real.device != k.device:
            raise UnsupportedError(f"{name} is on {self._real.device}, and its keys are on {k.device}: move it there")

    def counted(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As for :class:`KeyMask`."""
        if not self._settled:
            self._places = None
        return super().counted(k, v)

    def item(self, item: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Refused, as the host would have to know how many keys count."""
        raise UnsupportedError(f"the keys of sample {item} cannot be listed without reading a mask on the device")

    def _find_places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        places = torch.argsort((~self._real).byte(), dim=1, stable=True)
        counts = self._real.sum(dim=1, dtype=torch.int32)
        behind = torch.arange(places.shape[1], device=device)[None] >= counts[:, None]
        return _first_again(places, behind), counts


def _shape(real: Tensor) -> tuple[int, ...]:
    if real.ndim != 2 or real.dtype != torch.bool:
        raise UnsupportedError(
            f"a key mask has to be bool [B, Skv], True where a key counts; got {real.dtype} {tuple(real.shape)}"
        )
    return tuple(real.shape)


def _first_again(places: Tensor, behind: Tensor) -> Tensor:
    """Have what lies behind the keys that count be the first of them, which is a number at least."""
    return torch.where(behind, places[:, :1], places) if places.shape[1] else places
