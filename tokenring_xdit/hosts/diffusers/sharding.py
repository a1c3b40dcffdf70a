"""A transformer of diffusers that all ranks compute together: cut as its plan says, its attention by TokenRing."""

from __future__ import annotations

import importlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import KERNELS
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts import sharding
from tokenring_xdit.hosts.agreement import describe
from tokenring_xdit.hosts.caches import Together
from tokenring_xdit.hosts.diffusers.attention import DISPATCH, KERNELS_OF_BACKENDS, Site, plain, spread
from tokenring_xdit.hosts.diffusers.cut import ModelCut
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily
from tokenring_xdit.hosts.diffusers.masks import refuse_holes, refuse_weights
from tokenring_xdit.hosts.diffusers.offer import too_old
from tokenring_xdit.hosts.diffusers.plan import named, plan_of
from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.hosts.processors import ProcessorSlot, settle
from tokenring_xdit.hosts.running import RUNNING
from tokenring_xdit.hosts.sharding import Sharded, put_in_place, sharded_of, shared_by, taken_out
from tokenring_xdit.parallel import ParallelDims

__all__ = ["HOST", "DiffusersSharding", "refuse_changed", "shard", "sharding_of", "unshard"]

HOST = "diffusers"


class DiffusersSharding(Sharded):
    """How a transformer is shared out, which it carries with it.

    Args:
        model: The transformer, changed in place: it keeps its weights, adapters, hooks and names.
        dims: How the ranks are divided.
        family: What is known of it.
    """

    def __init__(self, model: Any, dims: ParallelDims, family: DiffusersFamily) -> None:
        super().__init__(model, HOST, controls=tuple(family.control))
        self.dims = dims
        self._family = family
        self._call: Hashable = None
        self._cut = ModelCut(plan_of(self.kind, family))
        self.slots = list(_slots(model, family, self))
        settle(self.slots)
        self._cut.hook(model)
        put_in_place(model, self, self.kind, {"set_attention_backend": _set_attention_backend})

    def site(self, name: str) -> Site:
        """What answers one of its attention modules."""
        return Site(
            f"{name} of the {self.kind.__name__}", self.dims.sequence_schedule, lambda: self._call, self._family
        )

    def check(self, model: Any) -> None:
        """Refuse, beside what every host does, feed-forward in chunks of tokens: ranks differ in how many they have."""
        super().check(model)
        if any(getattr(m, "_chunk_size", None) and getattr(m, "_chunk_dim", 0) == 1 for m in model.modules()):
            raise UnsupportedError(
                f"enable_forward_chunking(dim=1) was called for the {self.kind.__name__}, whose tokens the chunks need "
                "not divide on every rank: use dim=0, or disable_forward_chunking()"
            )

    def refuse(self, model: Any, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments and kernels that were not compared."""
        if HOST not in INSTALLATION.hosts:
            raise UnsupportedError(
                f"what parallelize changed in diffusers was undone, and the {self.kind.__name__} is still cut: load "
                "the pipeline anew, or call parallelize and undo it for the pipeline itself"
            )
        _refuse_arguments(self.kind.__name__, arguments, self._family)
        _refuse_config(model, self._family)
        tensors = (value for value in arguments.values() if isinstance(value, Tensor))
        _refuse_backends(self.slots, model.dtype, next((tensor.device for tensor in tensors), model.device))

    def enter(self, model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        """Cut what the model is given."""
        self._cut.hook(model)
        zeros = (not bool(arguments[name].any()) for name in self._family.absent_if_zero if name in arguments)
        self._call = (*((name, _shape(name, value)) for name, value in arguments.items()), *zeros)
        world = dist.group.WORLD
        assert world is not None
        RUNNING.together = Together(world, dist.get_rank(), None)
        return self._cut.begin(arguments)

    def leave(self) -> None:
        """The call is over."""
        self._cut.end()

    def take_off(self) -> None:
        """Remove hooks and processors again."""
        self._cut.unhook()
        for slot in self.slots:
            slot.module.processor = plain(slot.module.processor)


def shard(model: Any, dims: ParallelDims, family: DiffusersFamily) -> None:
    """Let all ranks compute a transformer together from now on; every rank calls it.

    Args:
        model: The transformer.
        dims: How the ranks are divided.
        family: What is known of it.
    """
    DiffusersSharding(model, dims, family)


def unshard(model: Any) -> None:
    """Let each rank compute the whole transformer again.

    Raises:
        UnsupportedError: Something holds on to what it was meanwhile.
    """
    if sharding_of(model) is not None:
        sharded = taken_out(getattr(model, "_orig_mod", model))
        assert isinstance(sharded, DiffusersSharding)
        sharded.take_off()


def sharding_of(model: Any) -> DiffusersSharding | None:
    """How this host shares a transformer out; ``None`` if nobody does.

    Raises:
        UnsupportedError: Another host does.
    """
    return shared_by(DiffusersSharding, model)


def refuse_changed(model: Any, family: DiffusersFamily) -> None:
    """Refuse a transformer that cannot be shared out as it is.

    Args:
        model: The transformer.
        family: What is known of it.

    Raises:
        UnsupportedError: It is none of diffusers' own, or something was done to it that was not compared.
    """
    reason = too_old(family)
    if reason is not None:
        raise UnsupportedError(
            f"host='{HOST}' was asked for, and {reason}: use diffusers >= {family.since}, or host='xfuser'"
        )
    sharding.refuse_changed(model, {family.transformer}, lambda: list(_slots(model, family, None)))
    plan_of(type(model), family)
    _refuse_config(model, family)
    if getattr(model, "_parallel_config", None) is not None:
        raise UnsupportedError(
            f"the {family.transformer} is spread over devices by diffusers itself already (enable_parallelism): load "
            "it anew, and call parallelize alone"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"  # the model's own may be where it is offloaded to
    _refuse_backends(_slots(model, family, None), model.dtype, torch.device(device))


def _refuse_arguments(kind: str, arguments: Mapping[str, Any], family: DiffusersFamily) -> None:
    """Refuse arguments that were not compared.

    Raises:
        UnsupportedError: There is one.
    """
    told = {name: value for name, value in arguments.items() if value is not None and value is not False}
    given = [name for name in family.refused if name in told]
    if given:
        raise UnsupportedError(
            f"{', '.join(given)} reached the {kind}, which was not compared with the single process when it is spread "
            "over ranks: leave it and what brings it out, or do without parallelize"
        )
    if family.each_item and "encoder_attention_mask" in told:
        refuse_holes(kind, told["encoder_attention_mask"])
    if family.pair_masks and "attention_mask" in told:
        refuse_weights(kind, told["attention_mask"])


def _refuse_config(model: Any, family: DiffusersFamily) -> None:
    """Refuse settings that were not compared; pipelines change some of them before they call a transformer.

    Raises:
        UnsupportedError: There is one.
    """
    for name, values in family.config.items():
        if model.config.get(name) not in values:
            raise UnsupportedError(
                f"the {family.transformer} has {name}={model.config.get(name)!r}, and only "
                f"{' and '.join(map(repr, values))} was compared: call the pipeline without parallelize"
            )


def _slots(model: Any, family: DiffusersFamily, owner: DiffusersSharding | None) -> Iterator[ProcessorSlot]:
    """All attention of a transformer, and what may stand there.

    Raises:
        UnsupportedError: There is some that the record does not know.
    """
    found: dict[str, ProcessorSlot] = {}
    for patterns, reaches_all in ((family.spread, True), (family.local, False)):
        for pattern, known in patterns.items():
            for name, module in named(model, pattern):
                if getattr(module, "processor", None) is None:
                    continue
                site = owner.site(name) if owner is not None and reaches_all else None
                found[name] = ProcessorSlot(
                    name,
                    module,
                    known,
                    None if site is None else partial(spread, site=site),
                    backends=frozenset(KERNELS_OF_BACKENDS),
                    instead="use 'native', '_native_flash' or '_native_cudnn'",
                )
    unknown = [
        name
        for name, module in model.named_modules()
        if name not in found and getattr(module, "processor", None) is not None
    ]
    if unknown:
        raise UnsupportedError(
            f"the {type(model).__name__} has attention in {unknown[0]} that was not compared when it is spread over "
            "ranks: call the pipeline without parallelize"
        )
    yield from found.values()


def _refuse_backends(slots: Iterable[ProcessorSlot], dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a kernel that diffusers was told to use and that was not compared, or cannot run here.

    Args:
        slots: Where attention is.
        dtype: The model's.
        device: Where it computes; its weights may be elsewhere until then.

    Raises:
        UnsupportedError: There is one.
    """
    dispatch = importlib.import_module(DISPATCH)
    active = dispatch._AttentionBackendRegistry.get_active_backend()[0]
    processors = [slot.module.processor for slot in slots]
    asked = [each._attention_backend or active for each in processors if hasattr(each, "_attention_backend")]
    for backend in sorted({str(getattr(each, "value", each)) for each in asked}):
        if backend not in KERNELS_OF_BACKENDS:
            raise UnsupportedError(
                f"diffusers' attention backend '{backend}' was chosen, which would attend this rank's own tokens only "
                "or was not compared: use set_attention_backend('native'), '_native_flash' or '_native_cudnn'"
            )
        kernel = KERNELS_OF_BACKENDS[backend]
        reason = None if kernel is None else KERNELS[kernel].refusal(device, dtype)
        if reason is not None:
            raise UnsupportedError(
                f"diffusers' attention backend '{backend}' {reason}: use set_attention_backend('native')"
            )


def _set_attention_backend(self: Any, backend: str) -> None:
    if backend not in KERNELS_OF_BACKENDS:
        raise UnsupportedError(
            f"set_attention_backend({backend!r}) was not compared in a transformer that is spread over ranks: use "
            "'native', '_native_flash' or '_native_cudnn'"
        )
    found = sharded_of(self)
    assert found is not None
    found.kind.set_attention_backend(self, backend)


def _shape(name: str, value: Any) -> Hashable:
    """What of an argument decides shapes and masks inside the model: all but other numbers."""
    if isinstance(value, Tensor):
        masks = value.dtype.itemsize == 1 or "mask" in name
        return describe(value) if masks else tuple(value.shape)
    if isinstance(value, (list, tuple)):
        return tuple(_shape(name, each) for each in value)
    if isinstance(value, Mapping):
        return tuple((str(key), _shape(name, each)) for key, each in value.items())
    return None if isinstance(value, float) else describe(value)
