"""Memory for the slots of a program; on a CPU it outlives a call, so that no step allocates."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from tokenring_xdit.attention.messages import partial_form
from tokenring_xdit.schedule.lower.landing import Footprint, footprint
from tokenring_xdit.schedule.lower.program import RESULT, KernelCall, RankProgram, Slot, SlotForm

__all__ = ["Arena", "Buffers", "Handle", "outlasting", "token_major"]

_KEPT = 16
"""Arenas kept between calls. Layers have one shape; prompts of a serving process may each bring another one."""


class Handle(Protocol):
    """A transfer that was posted."""

    def wait(self) -> object:
        """Wait until it is over."""


def outlasting() -> AbstractContextManager[None]:
    """Inside, memory is made that later calls can write to: what inference mode makes only it can write to."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()


def token_major(tensor: Tensor, *, back: bool = False) -> Tensor:
    """``[B, H, S, ...]`` as ``[S, B, H, ...]``, or back: a view."""
    order = (1, 2, 0) if back else (2, 0, 1)
    return tensor.permute(*order, *range(3, tensor.dim()))


class Arena:
    """Memory of the slots of a program that hold messages.

    Args:
        program: The program.
        dtype: Dtype of queries, keys and values.
        partial_dtype: In which partial outputs travel.
        device: Where.
        area: Bytes in which the slots lie; ``None`` for memory of their own.
        memory: Where in it.

    Attributes:
        program: The same.
        tensors: Of each slot, ``[B, H, S, D]``, or the bytes of a partial output; none of the first three, which belong
            to the caller, of sums, and of what a kernel makes; none at all of a fleeting program.
        partials: Output ``[B, H, S, D]`` and log-sum-exp ``[B, H, S]`` of what comes as partial outputs, by slot.
        readers: Readers of each slot, the transfers that still read it.
    """

    def __init__(
        self,
        program: RankProgram,
        dtype: torch.dtype,
        partial_dtype: torch.dtype,
        device: torch.device,
        area: Tensor | None = None,
        memory: Footprint | None = None,
    ) -> None:
        self.program = program
        self.tensors: list[tuple[Tensor, ...]] = []
        self.partials: dict[int, tuple[Tensor, Tensor]] = {}
        self.readers: list[list[Handle]] = [[] for _ in program.slots]
        self._dtype, self._partial_dtype, self._device = dtype, partial_dtype, device
        self._areas = {} if area is None else {torch.uint8: area}  # the same bytes by dtype
        self._places = memory.places if memory is not None else None
        if program.fleeting:
            self.tensors += [()] * len(program.slots)
            return
        outputs = {step.output for _, step in program.steps if isinstance(step, KernelCall)}
        with outlasting():
            for number, slot in enumerate(program.slots):
                others = number <= RESULT or slot.form is SlotForm.SUM or number in outputs
                self.tensors.append(() if others or slot.inside >= 0 else self._make(number, slot))
        for number, slot in enumerate(program.slots):
            if slot.inside >= 0:
                rows = slice(slot.first, slot.first + slot.shape[2])
                self.tensors[number] = tuple(tensor[:, :, rows] for tensor in self.tensors[slot.inside])
            if slot.form is SlotForm.OUTPUT and number not in outputs:
                out, lse = self.tensors[number]
                self.partials[number] = out, lse

    def take(self, number: int) -> tuple[Tensor, ...]:
        """Memory for a slot of a fleeting program."""
        return self._make(number, self.program.slots[number])

    def give_back(self, number: int) -> None:
        """Let go of it."""
        self.partials.pop(number, None)

    def _make(self, number: int, slot: Slot) -> tuple[Tensor, ...]:
        if slot.form is SlotForm.PARTIAL:
            form = partial_form(slot.shape, self._partial_dtype)
            message = self._memory(number, 0, (form.size,), torch.uint8)
            self.partials[number] = form.views(message)
            return (message,)
        if slot.form is SlotForm.OUTPUT:
            out = self._empty(number, 0, slot.shape, self._partial_dtype)
            return out, self._empty(number, 1, slot.shape[:3], torch.float32)
        return tuple(self._empty(number, index, slot.shape, self._dtype) for index in range(slot.form.tensors))

    def _empty(self, number: int, index: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory for ``[B, H, S, ...]``."""
        if not self.program.token_major:
            return self._memory(number, index, shape, dtype)
        batch, heads, tokens, *rest = shape
        return token_major(self._memory(number, index, (tokens, batch, heads, *rest), dtype), back=True)

    def _memory(self, number: int, index: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory for a tensor of a slot, contiguous."""
        if self._places is None:
            return torch.empty(shape, dtype=dtype, device=self._device)
        if dtype not in self._areas:
            self._areas[dtype] = self._areas[torch.uint8].view(dtype)
        first, size = (part // dtype.itemsize for part in self._places[number][index])
        return self._areas[dtype].narrow(0, first, size).view(shape)


class Buffers:
    """The arenas of a rank's last programs.

    Attributes:
        area: Bytes in which all of them lie; ``None`` where each has memory of its own.
    """

    def __init__(self) -> None:
        self.area: Tensor | None = None
        self._arenas: OrderedDict[tuple[int, torch.dtype, torch.dtype, torch.device], Arena] = OrderedDict()
        self._footprints: OrderedDict[tuple[int, int, int], tuple[RankProgram, Footprint]] = OrderedDict()

    def arena(
        self, program: RankProgram, dtype: torch.dtype, partial_dtype: torch.dtype, device: torch.device
    ) -> Arena:
        """The memory of a program, which nothing reads and whose content is undefined.

        Of a fleeting program it is made when it is needed. On a GPU it is new each time: torch's allocator keeps the
        memory at hand, and it alone knows whether a CUDA graph will use it again. It is in one piece there, so that
        slots are as far from each other in every call: Triton makes a kernel for neighbours only, and has to have made
        it before a CUDA graph is captured.
        """
        if program.fleeting:
            return Arena(program, dtype, partial_dtype, device)
        area, memory = self.area, None
        if area is not None or device.type == "cuda":
            memory = self._footprint(program, dtype, partial_dtype)
        if area is None and memory is not None:
            with outlasting():
                area = torch.empty(memory.size, dtype=torch.uint8, device=device)
            return Arena(program, dtype, partial_dtype, device, area, memory)
        key = id(program), dtype, partial_dtype, device
        arena = self._arenas.get(key)
        if arena is None or arena.program is not program:  # a program that is gone may have had this one's number
            arena = self._arenas[key] = Arena(program, dtype, partial_dtype, device, area, memory)
            if len(self._arenas) > _KEPT:
                self._arenas.popitem(last=False)
        self._arenas.move_to_end(key)
        return arena

    def _footprint(self, program: RankProgram, dtype: torch.dtype, partial_dtype: torch.dtype) -> Footprint:
        """Where the slots of a program lie in one piece of memory."""
        key = id(program), dtype.itemsize, partial_dtype.itemsize
        known = self._footprints.get(key)
        if known is None or known[0] is not program:
            known = self._footprints[key] = program, footprint(program, dtype.itemsize, partial_dtype.itemsize)
            if len(self._footprints) > _KEPT:
                self._footprints.popitem(last=False)
        return known[1]

    def clear(self) -> None:
        """Let all memory go."""
        self._arenas.clear()

    @property
    def size(self) -> int:
        """Bytes of what is kept."""
        return sum(t.nbytes for arena in self._arenas.values() for tensors in arena.tensors for t in tensors)
