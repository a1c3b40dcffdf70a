"""``--tokenring_cuda_graphs`` of the ``xdit`` command: calls of xfuser's transformers, replayed under any strategy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
import torch.distributed as dist

from tokenring_xdit.attention import exchange, guarded
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.graphs import CudaRecorder, GraphedCalls, Recorder, refuse_without_cuda
from tokenring_xdit.hosts.replay import ReplayCheck, surroundings
from tokenring_xdit.hosts.running import watching_decisions
from tokenring_xdit.hosts.xfuser.repairs.common import replace_method

__all__ = ["FLAG", "HOOKS", "NOT_BESIDE", "graphed_forward", "refuse_graphs", "replay_calls"]

log = logging.getLogger("tokenring_xdit.graphs")

FLAG = "tokenring_cuda_graphs"

NOT_BESIDE = {
    "use_torch_compile": "torch.compile makes CUDA graphs of its own where xfuser asks for them",
    "cache_method": "a step cache decides on the host what is computed",
    "pipefusion_parallel_degree": "PipeFusion's stages hand on another patch in each call",
    "data_parallel_degree": "data parallel groups come to different calls",
    "use_hybrid_attn_schedule": "the kernel changes from step to step",
    "use_hybrid_gemm_schedule": "the kernels change from step to step",
    "fully_shard_degree": "weights are gathered in each call",
    "use_fp8_comms": "its scales are calibrated during calls",
    "enable_model_cpu_offload": "weights move in and out",
    "enable_sequential_cpu_offload": "weights move in and out",
    "enable_group_cpu_offload": "weights move in and out",
}
"""Arguments of xfuser that do not go together with graphs, and why."""


def refuse_graphs(arguments: Any) -> None:
    """Refuse CUDA graphs where nothing could be captured.

    Args:
        arguments: Arguments of xfuser.

    Raises:
        UnsupportedError: There is no GPU, or another argument stands against it.
    """
    refuse_without_cuda(f"--{FLAG}")
    for name, why in NOT_BESIDE.items():
        value = getattr(arguments, name, None)
        if value and (value is True or value != 1):  # a degree of 1 is none
            raise UnsupportedError(f"--{FLAG} cannot be combined with --{name}, as {why}: leave one of them out")


def replay_calls(model: Any, recorder: Recorder) -> GraphedCalls:
    """Replay a transformer's calls from now on; all ranks of the world call it, and the transformer, alike.

    Args:
        model: The transformer.
        recorder: Records its calls.

    Returns:
        The calls.
    """
    model.forward, graphs = graphed_forward(model, recorder)
    return graphs


def graphed_forward(model: Any, recorder: Recorder) -> tuple[Callable[..., Any], GraphedCalls]:
    """What to put in the place of a transformer's forward, so that its calls are replayed.

    Args:
        model: The transformer.
        recorder: Records its calls.

    Returns:
        It, and the calls.
    """
    kind = type(model).__name__
    graphs = GraphedCalls(
        kind, recorder, exchange=partial(exchange, None), watch=watching_decisions, tells=dist.get_rank() == 0
    )
    original: Callable[..., Any] = model.forward
    look = ReplayCheck()

    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        arguments, what = {"args": args, "kwargs": kwargs}, f"a call of the {kind}"
        with guarded(None, what):
            proposal = graphs.propose(arguments, *look(model), surroundings())
            graphs.settle(exchange(None, proposal, what))
            return graphs(lambda args, kwargs: original(*args, **kwargs), arguments)

    return forward, graphs


def replay_what_the_command_loads(base_model: Any) -> None:
    """Replay the calls of what ``xdit`` loads, where that is asked for, and say what became of them."""
    graphs: dict[str, GraphedCalls] = {}

    def make_initialize(original: Any) -> Any:
        def initialize(self: Any, input_args: Any) -> None:
            original(self, input_args)
            if not getattr(self.config, FLAG, False):
                return
            for name in self.settings.transformer_attr_names:
                model = getattr(self.pipe, name, None)
                if model is not None:
                    device = torch.device("cuda", torch.cuda.current_device())
                    graphs[name] = replay_calls(model, CudaRecorder(device))

        return initialize

    def make_run(original: Any) -> Any:
        def run(self: Any, input_args: Any) -> Any:
            result = original(self, input_args)
            if dist.get_rank() == 0:
                for name, calls in graphs.items():
                    log.warning("--%s: %s: %s", FLAG, name, calls.report)
            return result

        return run

    replace_method(base_model.xFuserModel, "initialize", make_initialize)
    replace_method(base_model.xFuserModel, "run", make_run)


HOOKS = {"xfuser.model_executor.models.runner_models.base_model": replay_what_the_command_loads}
