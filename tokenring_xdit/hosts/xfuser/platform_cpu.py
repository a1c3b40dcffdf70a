"""Lets xfuser 0.7.0 run on gloo with no accelerator: the one place that says "if there is no GPU".

Both the CPU build of torch and a CUDA build on a machine without a GPU count. Where there is an
accelerator nothing here does anything.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.hosts.installation import INSTALLATION

__all__ = ["HOOKS", "no_accelerator", "prepare_torch"]


def no_accelerator() -> bool:
    """Whether this machine has none of the accelerators that xfuser knows."""
    others = (getattr(torch, name, None) for name in ("musa", "npu"))
    return not (
        torch.cuda.is_available()
        or torch.backends.mps.is_available()
        or any(other is not None and other.is_available() for other in others)
    )


def prepare_torch() -> None:
    """Make the calls to ``torch.cuda`` that xfuser's runner makes unconditionally harmless."""
    INSTALLATION.replace(torch.cuda, "synchronize", lambda device=None: None, author=prepare_torch)
    INSTALLATION.replace(torch.cuda, "Event", _WallClockEvent, author=prepare_torch)


class _WallClockEvent:
    """Times the CPU where xfuser's runner would time a stream."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._at = 0.0

    def record(self, stream: object = None) -> None:
        """Note the time."""
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        """Nothing is pending on a CPU."""

    def elapsed_time(self, end: _WallClockEvent) -> float:
        """Milliseconds from this event to ``end``."""
        return (end._at - self._at) * 1000.0


def take_gloo(envs: Any) -> None:
    """Have xfuser find no device, take gloo and use yunchang, instead of raising."""
    INSTALLATION.replace(envs, "_is_cuda", lambda: False)  # a CUDA build says yes, with or without a GPU
    INSTALLATION.replace(envs, "get_device_version", lambda: None)
    INSTALLATION.replace(envs, "get_torch_distributed_backend", lambda: "gloo")
    packages = envs.PACKAGES_CHECKER.packages_info
    INSTALLATION.put(packages, "has_long_ctx_attn", True, "xfuser.envs.PACKAGES_CHECKER.packages_info")
    INSTALLATION.replace(envs.PackagesEnvChecker, "_on_rdna4", lambda self: False)


def wait_for_no_device(module: Any) -> None:
    """Have groups wait for no device, and PipeFusion's stages for no receiver."""
    INSTALLATION.replace(module, "synchronize", lambda: None)
    _let_pipeline_sends_be(module.PipelineGroupCoordinator)


def _let_pipeline_sends_be(coordinator: Any) -> None:
    """Send between PipeFusion's stages without waiting for the receiver.

    xfuser 0.7.0: ``_communicate_shapes`` waits for what it sends. NCCL buffers small messages; gloo
    waits for the receiver, and in the asynchronous stage two ranks wait for each other for ever. The
    other sends drop their handle, and gloo drops the message with it.
    """
    under_way: deque[tuple[Any, Tensor]] = deque()

    def keep(work: Any, tensor: Tensor) -> Any:
        under_way.append((work, tensor))
        if len(under_way) > _SENDS_UNDER_WAY:
            under_way.popleft()[0].wait()
        return work

    def keeping(send: Any) -> Any:
        return lambda self, tensor: keep(send(self, tensor), tensor)

    def communicate_shapes(self: Any, tensor_send_to_next: Tensor | None = None, recv_prev: bool = False) -> torch.Size:
        def receive(count: int) -> list[int]:
            message = torch.empty(count, dtype=torch.int64)
            dist.recv(message, self.prev_rank, group=self.device_group)
            return [int(number) for number in message]

        if tensor_send_to_next is not None:
            for numbers in ([tensor_send_to_next.dim()], list(tensor_send_to_next.shape)):
                message = torch.tensor(numbers, dtype=torch.int64)
                keep(dist.isend(message, self.next_rank, group=self.device_group), message)
        return torch.Size(receive(*receive(1)) if recv_prev else [0, 0, 0])

    destroy = coordinator.destroy

    def deliver_and_destroy(self: Any) -> None:
        try:
            while under_way:
                under_way.popleft()[0].wait(_LAST_DELIVERY)
        except RuntimeError:
            under_way.clear()  # the receiver failed, and says so itself
        destroy(self)

    for name, function in {
        "_communicate_shapes": communicate_shapes,
        "_pipeline_isend": keeping(coordinator._pipeline_isend),
        "_pipeline_isend_skip": keeping(coordinator._pipeline_isend_skip),
        "destroy": deliver_and_destroy,
    }.items():
        INSTALLATION.replace(coordinator, name, function)


_RUNNERS = "xfuser.model_executor.models.runner_models"

_LAST_DELIVERY = timedelta(seconds=10)
"""For messages that a stage has not asked for yet when another has ended."""

_SENDS_UNDER_WAY = 64
"""Of PipeFusion, far more than a stage can be ahead of the next; the oldest beyond it have long been received."""


def take_groups_from_yunchang(usp: Any) -> None:
    """Have attention find its groups, which xfuser imports on GPUs only."""
    from yunchang.globals import PROCESS_GROUP

    INSTALLATION.replace(usp, "PROCESS_GROUP", PROCESS_GROUP)


def take_the_flash_kernel_of_cpus(module: Any) -> None:
    """Have the kernel that returns a log-sum-exp compute on a CPU."""
    flash = module.AttentionBackendType.SDPA_FLASH

    def sdpa_flash(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_p: float,
        is_causal: bool,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        if len(key) != len(query):  # one text for several videos; the operator reads past its end
            key, value = (each.expand(len(query), -1, -1, -1) for each in (key, value))
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, dropout_p, is_causal)
        return out, lse

    registry = f"{module.__name__}.ATTENTION_FUNCTION_REGISTRY"
    INSTALLATION.put(module.ATTENTION_FUNCTION_REGISTRY, flash, sdpa_flash, registry)


def take_that_kernel_by_default(module: Any) -> None:
    """Have that kernel chosen where none was asked for."""
    original = module.RuntimeState._select_attention_backend

    def select(self: Any, engine_config: Any = None) -> Any:
        if engine_config and engine_config.runtime_config.attention_backend:
            return original(self, engine_config)
        return module.AttentionBackendType.SDPA_FLASH  # plain SDPA has no log-sum-exp

    INSTALLATION.replace(module.RuntimeState, "_select_attention_backend", select)


def _here(device: Any) -> Any:
    """The CPU where a GPU is named; other values, of devices or not, as they are."""
    named = isinstance(device, (str, torch.device)) and str(device).startswith("cuda")
    return "cpu" if named else device


def stay_on_the_cpu(module: Any) -> None:
    """Have pipelines that are sent to a GPU, as xfuser's runner does, stay where they are."""
    kind = module.DiffusionPipeline if hasattr(module, "DiffusionPipeline") else module.ModularPipeline
    original = kind.to

    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *map(_here, args), **{name: _here(value) for name, value in kwargs.items()})

    INSTALLATION.replace(kind, "to", to)


class _TorchOfCpus:
    """torch, whose generators of a GPU are those of the CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def Generator(device: Any = "cpu") -> torch.Generator:  # noqa: N802 - torch's name
        """A generator of the CPU."""
        return torch.Generator(_here(device))


def draw_on_the_cpu(module: Any) -> None:
    """Have a runner draw noise on the CPU: some ask for a generator of a GPU by name, whatever the pipeline is on."""
    if hasattr(module, "torch"):
        INSTALLATION.replace(module, "torch", _TorchOfCpus())


def _runners() -> Iterator[str]:
    """Modules of xfuser that have runners, none of which is imported for that."""
    xfuser = find_spec("xfuser")
    for folder in (xfuser.submodule_search_locations or ()) if xfuser is not None else ():
        for path in sorted(Path(folder, *_RUNNERS.split(".")[1:]).glob("[!_]*.py")):
            yield f"{_RUNNERS}.{path.stem}"


HOOKS = {
    "xfuser.envs": take_gloo,
    "xfuser.core.distributed.group_coordinator": wait_for_no_device,
    "xfuser.core.distributed.attention_backend": take_the_flash_kernel_of_cpus,
    "xfuser.core.distributed.runtime_state": take_that_kernel_by_default,
    "xfuser.model_executor.layers.usp": take_groups_from_yunchang,
    "diffusers.pipelines.pipeline_utils": stay_on_the_cpu,
    "diffusers.modular_pipelines.modular_pipeline": stay_on_the_cpu,
    **dict.fromkeys(_runners(), draw_on_the_cpu),
}
"""What to do to each module right after it has been imported."""
