"""One call that spreads a diffusers pipeline over the ranks of ``torchrun``; it is then called as always."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.errors import ConfigurationError, UnsupportedError
from tokenring_xdit.graphs import CudaRecorder, GraphReport, Recorder, refuse_without_cuda
from tokenring_xdit.hosts.calls import Output, join_world, spread_over_ranks
from tokenring_xdit.hosts.changes import refuse_scattered
from tokenring_xdit.hosts.refusals import heads_of, refuse_ulysses
from tokenring_xdit.hosts.sharding import sharded_of, still_shared_by, transformers_of
from tokenring_xdit.hosts.xfuser.backends import AttentionBackend
from tokenring_xdit.hosts.xfuser.choice import refuse_unattached
from tokenring_xdit.hosts.xfuser.noise import no_debug_lines
from tokenring_xdit.hosts.xfuser.sharding import Sharding, refuse_changed, shard, sharding_of
from tokenring_xdit.hosts.xfuser.state import XfuserState
from tokenring_xdit.hosts.xfuser.supported import family_of, refuse_untested
from tokenring_xdit.parallel import GRAPHS_NEED_RANKS, ParallelDims

__all__ = ["XfuserHost", "graph_reports", "parallelize"]

_Pipeline = TypeVar("_Pipeline")


def parallelize(
    pipe: _Pipeline,
    *,
    tokenring_degree: int = 1,
    ulysses_degree: int = 1,
    schedule: str = DEFAULT_SCHEDULE,
    attention_backend: str | AttentionBackend = AttentionBackend.AUTO,
    output: Output = Output.EVERY_RANK,
    cuda_graphs: bool = False,
) -> _Pipeline:
    """Spread a diffusers pipeline over all ranks; every rank calls it with the same pipeline.

    The pipeline is changed in place: all ranks compute its transformer together, and its call becomes a call of all
    ranks. Every rank has to pass the same arguments and to have the same weights, which is checked before anything is
    computed. Random numbers without a generator are the same on all ranks, those of the first one.

    Args:
        pipe: A diffusers pipeline, loaded and on this rank's device.
        tokenring_degree: Ranks that TokenRing shards the sequence over.
        ulysses_degree: Ranks that Ulysses shards the heads over.
        schedule: What the TokenRing ranks exchange and when.
        attention_backend: xfuser's kernel for attention on one rank.
        output: Which ranks get the result.
        cuda_graphs: Capture calls of the transformer as CUDA graphs, and replay them (``docs/gpu.md``).
            :func:`graph_reports` counts them.

    Returns:
        ``pipe``.

    Raises:
        ConfigurationError: A library is missing, or too old or new; there are no ranks, or their number is not the
            product of the degrees; the pipeline is parallel already; or ``output`` is unknown.
        UnsupportedError: The pipeline, or what was done to it before, was not compared with the single process, it has
            heads that the Ulysses ranks do not divide, or the attention backend needs what this machine lacks.
    """
    check_versions()
    no_debug_lines()
    join_world()

    def asked() -> XfuserHost:
        backend = AttentionBackend.parse(attention_backend)
        backend.refuse_missing()
        if cuda_graphs:
            _refuse_graphs_here(pipe)
        dims = ParallelDims(ulysses=ulysses_degree, tokenring=tokenring_degree, schedule=schedule)
        return XfuserHost(dims, backend, CudaRecorder if cuda_graphs else None)

    return spread_over_ranks(pipe, asked, output)


def graph_reports(pipe: Any) -> dict[str, GraphReport]:
    """How many calls of a pipeline's transformers were replayed as CUDA graphs, captured or eager, by transformer."""
    found = {}
    for part, model in transformers_of(pipe).items():
        sharded = sharded_of(model)
        if sharded is not None and sharded.graphs is not None:
            found[part] = sharded.graphs.report
    return found


class XfuserHost:
    """xfuser as it was asked for, as :class:`~tokenring_xdit.hosts.base.Host` says.

    Args:
        dims: How the ranks are divided.
        backend: The kernel for attention on one rank.
        recorder: Makes what records the calls of a transformer on a device, where they are to be replayed.
    """

    def __init__(
        self, dims: ParallelDims, backend: AttentionBackend, recorder: Callable[[torch.device], Recorder] | None = None
    ) -> None:
        refuse_unattached(dims.tokenring)
        self._dims, self._backend, self._recorder = dims, backend, recorder
        self._state: XfuserState | None = None

    @property
    def settings(self) -> Mapping[str, str]:
        """Degrees and kernel."""
        asked = {"degrees": str(self._dims), "attention_backend": self._backend.value}
        return {"host": "xfuser", **asked, "cuda_graphs": str(self._recorder is not None)}

    def refuse(self, pipe: Any) -> None:
        """Refuse what was not compared, degrees that do not fit, and what was done to the pipeline before."""
        dims = self._dims
        refuse_untested(
            pipe,
            f"parallelize with tokenring_degree={dims.tokenring}, ulysses_degree={dims.ulysses}",
            "Call the pipeline without parallelize; xdit runs more models with its own --ulysses_degree and "
            "--ring_degree",
        )
        dims.refuse_started(dist.get_world_size())
        refuse_scattered(pipe)
        for model in self.models(pipe).values():
            refuse_ulysses(dims.ulysses, heads_of(model.config))
            if dims.ranks > 1 and sharding_of(model) is None:
                refuse_changed(model, family_of(type(pipe).__name__))
        self._refuse_other_state(pipe)
        if self._recorder is not None and dims.ranks == 1:
            raise ConfigurationError(GRAPHS_NEED_RANKS)

    def spread(self, pipe: Any) -> None:
        """Change the classes of its transformers, around their weights."""
        shared = [sharding.state for sharding in map(sharding_of, self.models(pipe).values()) if sharding is not None]
        name = type(pipe).__name__
        self._state = (
            shared[0] if shared else XfuserState(self._dims, name, self._backend, exact=True, one_of_several=True)
        )
        self._state.activate(pipe)
        for model in self.models(pipe).values():
            if sharding_of(model) is None:
                recorder = None if self._recorder is None else self._recorder(model.device)
                shard(model, self._state, family_of(name), recorder)

    def models(self, pipe: Any) -> Mapping[str, Any]:
        """Its transformers."""
        return transformers_of(pipe)

    def shard_of(self, name: str, model: Any) -> Sharding:
        """What a transformer carries with it."""
        sharding = still_shared_by(Sharding, name, model)
        if sharding.graphs is not None and hasattr(model, "_orig_mod"):
            raise UnsupportedError(
                f"the {name} was compiled and is to be replayed as CUDA graphs too, which torch.compile makes itself "
                '(mode="reduce-overhead"): compile it, or pass cuda_graphs=True, not both'
            )
        return sharding

    def activate(self, pipe: Any) -> None:
        """Put xfuser's groups and runtime state in their places."""
        assert self._state is not None
        self._state.activate(pipe)

    def device(self, pipe: Any) -> torch.device:
        """As diffusers says."""
        device: torch.device = pipe._execution_device
        return device

    def _refuse_other_state(self, pipe: Any) -> None:
        """A transformer that another pipeline brought along is shared out as that pipeline was told."""
        for name, model in self.models(pipe).items():
            sharding = sharding_of(model)
            if sharding is None:
                continue
            theirs = sharding.state.degrees, sharding.state.backend, sharding.graphs is not None
            if theirs != (self._dims, self._backend, self._recorder is not None):
                raise ConfigurationError(
                    f"the {name} of this pipeline is that of another one, which was made parallel with "
                    f"{sharding.state.degrees}, attention_backend={sharding.state.backend.value}, "
                    f"cuda_graphs={theirs[2]}: use the same here, or load the pipeline anew"
                )


def _refuse_graphs_here(pipe: Any) -> None:
    refuse_without_cuda("cuda_graphs=True")
    for part, model in transformers_of(pipe).items():
        if model.device.type != "cuda":
            raise ConfigurationError(
                f"cuda_graphs=True, and the {part} is on {model.device}: move it to this rank's GPU"
            )
