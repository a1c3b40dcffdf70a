"""xfuser's process groups and runtime state as an object, so that several can live in one process.

xfuser keeps them in module globals and expects to be started once. A comparison wants the same ranks
to run Ulysses, Ring and TokenRing by turns, so an :class:`XfuserState` remembers the globals that its
start left behind and puts them back when it is activated.
"""

from __future__ import annotations

import pkgutil
import re
from contextlib import nullcontext
from typing import Any

import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.hosts.groups import shared_groups
from tokenring_xdit.hosts.xfuser.backends import AttentionBackend
from tokenring_xdit.hosts.xfuser.choice import promise_exactness, refuse_unattached
from tokenring_xdit.hosts.xfuser.install import register
from tokenring_xdit.hosts.xfuser.supported import own_pipeline
from tokenring_xdit.parallel import ParallelDims

__all__ = ["ShardedPipeline", "XfuserState"]

_GROUP_GLOBAL = re.compile(r"_[A-Z]+(_[A-Z]+)*")
"""Names of the globals of ``xfuser.core.distributed.parallel_state`` that hold groups."""


class XfuserState:
    """One configuration of xfuser over all ranks of the world; every rank makes it at the same time.

    Args:
        degrees: Their product has to be the world size.
        model: Name for the logs.
        backend: The kernel for attention on one rank.
        exact: Whether xfuser's faults are repaired under Ulysses and Ring, too.
        one_of_several: Whether it shares process groups with other states of which this is said. xfuser's own way to
            destroy the groups of one, which ends those of all, is not for them.
    """

    def __init__(
        self,
        degrees: ParallelDims,
        model: str = "",
        backend: AttentionBackend = AttentionBackend.AUTO,
        *,
        exact: bool = False,
        one_of_several: bool = False,
    ) -> None:
        register()
        from xfuser.core.distributed import parallel_state

        refuse_unattached(degrees.tokenring)
        self.degrees = degrees
        self.backend = backend
        self.forget()
        with shared_groups() if one_of_several else nullcontext():
            self._start(parallel_state, model, backend)
        if exact:
            promise_exactness(self.config.parallel_config.sp_config)
        self._groups = {n: v for n, v in vars(parallel_state).items() if _GROUP_GLOBAL.fullmatch(n)}
        self._runtime: Any = None
        from yunchang.globals import PROCESS_GROUP

        self._rings = dict(vars(PROCESS_GROUP))

    def _start(self, parallel_state: Any, model: str, backend: AttentionBackend) -> None:
        from xfuser import xFuserArgs

        degrees = self.degrees
        parallel_state.init_distributed_environment(rank=dist.get_rank(), world_size=dist.get_world_size())
        args = xFuserArgs(model=model, ulysses_degree=degrees.ulysses, ring_degree=degrees.ring, warmup_steps=0)
        args.tokenring_degree = degrees.tokenring
        args.tokenring_schedule = degrees.schedule
        args.attention_backend = backend.upstream
        self.config, _ = args.create_config()
        sequence = self.config.parallel_config.sp_config
        parallel_state.initialize_model_parallel(
            sequence_parallel_degree=sequence.sp_degree,
            ulysses_degree=sequence.ulysses_degree,
            ring_degree=sequence.ring_degree,
        )

    def activate(self, pipeline: Any) -> None:
        """Make this the state that xfuser's models see.

        Args:
            pipeline: The diffusers pipeline that is about to run; ``None`` for calls of ``USP`` without a model.
        """
        from xfuser.core.distributed import parallel_state, runtime_state
        from yunchang.globals import PROCESS_GROUP

        vars(parallel_state).update(self._groups)
        vars(PROCESS_GROUP).update(self._rings)
        if self._runtime is None and pipeline is None:
            self._runtime = runtime_state.RuntimeState(self.config)
        elif self._runtime is None:
            runtime_state.initialize_runtime_state(pipeline=pipeline, engine_config=self.config)
            self._runtime = runtime_state.get_runtime_state()
        runtime_state._RUNTIME = self._runtime

    @staticmethod
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Xfuser's ``USP`` under the active state, on this rank's shards ``[B, H, S/N, D]``."""
        from xfuser.model_executor.layers import usp

        out: Tensor = usp.USP(q, k, v)  # looked up anew, as traces and counts of traffic take its place
        return out

    @property
    def runtime(self) -> Any:
        """Xfuser's runtime state, once the state was activated."""
        return self._runtime

    @property
    def attention_backend(self) -> str:
        """Xfuser's name for the kernel of attention on one rank, once the state was activated."""
        return str(self._runtime.attention_backend.name)

    @staticmethod
    def forget() -> None:
        """Make xfuser believe that it was never started; earlier states keep their groups."""
        from xfuser.core.distributed import parallel_state, runtime_state

        world = parallel_state._WORLD  # shared: it only mirrors the default group
        for name in vars(parallel_state):
            if _GROUP_GLOBAL.fullmatch(name):
                setattr(parallel_state, name, None)
        parallel_state._WORLD = world
        runtime_state._RUNTIME = None


class ShardedPipeline:
    """xfuser's own pipeline around a diffusers one, which can change from one state to another.

    Args:
        pipeline: A diffusers pipeline that xfuser has one for; its transformer is wrapped in place.
        state: The first state to run it with.
    """

    def __init__(self, pipeline: Any, state: XfuserState) -> None:
        own = own_pipeline(type(pipeline).__name__)
        assert own is not None, f"xfuser has no pipeline around {type(pipeline).__name__}"
        state.activate(pipeline)
        self._pipeline = pipeline
        self._wrapper = pkgutil.resolve_name(own.path)(pipeline, state.config)
        # The wrapper has made a runtime state of its own; go on with the state's.
        self.use(state)

    def use(self, state: XfuserState) -> None:
        """Change to another state of the same ranks."""
        state.activate(self._pipeline)
        self._wrapper.engine_config = state.config

    def set_progress_bar_config(self, **options: Any) -> None:
        """As in diffusers."""
        self._pipeline.set_progress_bar_config(**options)

    def __call__(self, **arguments: Any) -> Any:
        """Run on all ranks together; the output comes on the last rank, ``None`` elsewhere."""
        return self._wrapper(**arguments)
