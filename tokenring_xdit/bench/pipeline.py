"""One rank's share of a comparison of denoising steps: a Flux pipeline, sharded in each way by turns."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import Trace
from tokenring_xdit.bench.captured import CapturedSteps
from tokenring_xdit.bench.commands import Checked, Prepare, Timed
from tokenring_xdit.bench.instruments import (
    barrier,
    largest,
    observe,
    settle,
    synchronize,
    traced_call,
    with_same_weights,
)
from tokenring_xdit.bench.pictures import Pixels
from tokenring_xdit.bench.plan import Strategy, StrategyKind
from tokenring_xdit.bench.timelines import Traced
from tokenring_xdit.bench.workload import WorkloadShape, flux_model
from tokenring_xdit.dtypes import torch_dtype
from tokenring_xdit.hosts.diffusers.own import count_own_traffic, own_attention, spread_by_diffusers
from tokenring_xdit.hosts.xfuser import (
    ShardedPipeline,
    XfuserState,
    count_traffic,
    time_attention,
)
from tokenring_xdit.hosts.xfuser.rotation import all_to_all_rotation
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.flux import decoded, unpacked
from tokenring_xdit.pipelines.loading import load_pipeline
from tokenring_xdit.schedule import Auto
from tokenring_xdit.sizes import PictureSize

__all__ = ["PipelineBench"]


@dataclass(frozen=True)
class _Loaded:
    """A model on this rank, which stays while problems use it.

    Attributes:
        made_of: Model, dtype and prompt.
        plain: The unmodified pipeline.
        text: Embeddings of the prompt, ``[1, T, C]`` and pooled ``[1, C]``: no call has to encode it.
        pipe: The pipeline whose transformer xfuser has changed, around the same weights.
        sharded: xfuser's around it; ``None`` on one rank alone.
        states: xfuser's, for each way to share the work.
        own: Pipelines around the same weights that diffusers' own context parallel spreads.
    """

    made_of: tuple[str, str, str]
    plain: Any
    text: tuple[Tensor, Tensor]
    pipe: Any
    sharded: ShardedPipeline | None
    states: dict[ParallelDims, XfuserState]
    own: dict[StrategyKind, Any] = field(default_factory=dict)


class _Clock:
    """When the first step of a call began, and when the last one ended."""

    def __init__(self, device: torch.device, steps: int) -> None:
        self._device, self._last = device, steps - 1
        self.start: float | None = None
        self.end = 0.0

    def note_start(self, *_: Any) -> None:
        """As a hook before a transformer's calls; the first one counts."""
        if self.start is None:
            synchronize(self._device)
            self.start = time.perf_counter()

    def note_step(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """As ``callback_on_step_end``."""
        if step == self._last:
            synchronize(self._device)
            self.end = time.perf_counter()
        return tensors


class _LastStep(_Clock):
    """Has a trace forget what was before the last step."""

    def __init__(self, trace: Trace, device: torch.device, steps: int) -> None:
        super().__init__(device, steps)
        self._trace = trace

    def note_step(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """As ``callback_on_step_end``."""
        if step < self._last:
            self._trace.clear()
        return tensors


class PipelineBench:
    """A picture on one rank. All ranks call its methods at the same time.

    Args:
        command: The problem.
        device: Where to compute.
    """

    _loaded: ClassVar[_Loaded | None] = None

    def __init__(self, command: Prepare, device: torch.device) -> None:
        assert isinstance(command.shape, WorkloadShape)
        self._shape, self._seed, self._device = command.shape, command.seed, device
        self._pictures = command.pictures
        self._size = PictureSize.parse(command.shape.size)
        self._model = self._load()
        self._captured = CapturedSteps(self._model.pipe.transformer, device)
        self._clock = _Clock(device, command.shape.steps)
        self.threads = torch.get_num_threads()
        self.kernel = next((state.attention_backend for state in self._model.states.values()), "as diffusers chooses")
        self._expected = self._reference()

    @torch.no_grad()
    def _load(self) -> _Loaded:
        made_of = (self._shape.model, self._shape.dtype, self._shape.prompt)
        known = PipelineBench._loaded
        if known is not None and known.made_of == made_of:
            return known
        known = PipelineBench._loaded = None  # its weights make room
        pipe = load_pipeline(self._shape.model, self._shape.dtype, self._device)
        tokens = flux_model(self._shape.model).text_tokens
        text = pipe.encode_prompt(self._shape.prompt, None, max_sequence_length=tokens)[:2]
        pipe.text_encoder = pipe.text_encoder_2 = None
        pipe.set_progress_bar_config(disable=True)
        plain, sharded, states = _twin(pipe), None, {}
        if self._shape.ranks > 1:
            degrees = ParallelDims(tokenring=self._shape.ranks)
            states[degrees] = XfuserState(degrees, self._shape.model, one_of_several=True)
            sharded = ShardedPipeline(pipe, states[degrees])
        PipelineBench._loaded = _Loaded(made_of, plain, text, pipe, sharded, states)
        return PipelineBench._loaded

    def _reference(self) -> Tensor:
        """What the unmodified pipeline makes of it on one rank, ``[1, S, C]``, told to all."""
        latents = self._draw(self._model.plain) if dist.get_rank() == 0 else None
        shape = torch.tensor((0, 0, 0) if latents is None else latents.shape, device=self._device)
        dist.broadcast(shape, 0)
        if latents is None:
            latents = torch.empty(shape.tolist(), dtype=torch_dtype(self._shape.dtype), device=self._device)
        expected = latents.contiguous()
        dist.broadcast(expected, 0)
        return expected

    # -- strategies --------------------------------------------------------------------------------

    def _call(self, strategy: Strategy) -> Callable[[], Tensor | None]:
        """The call to measure; it returns latents on the one rank that has them."""
        if strategy.captured:
            return self._captured.call(strategy, self._call(strategy.launched))
        model = self._model
        if strategy.kind is StrategyKind.SINGLE:
            return lambda: self._draw(model.plain) if dist.get_rank() == 0 else None
        if strategy.kind.of_diffusers:
            return self._call_of_diffusers(strategy)
        degrees = strategy.dims(self._shape.ranks)
        if degrees not in model.states:
            model.states[degrees] = XfuserState(degrees, self._shape.model, one_of_several=True)
        assert model.sharded is not None
        model.sharded.use(model.states[degrees])

        def call() -> Tensor | None:
            with all_to_all_rotation() if strategy.kind is StrategyKind.XFUSER_RING_ALLTOALL else nullcontext():
                return self._draw(model.sharded)

        return call

    def _call_of_diffusers(self, strategy: Strategy) -> Callable[[], Tensor | None]:
        """The same by diffusers' own context parallel; all ranks have the latents, and the last one returns them."""
        model, kind, ranks = self._model, strategy.kind, self._shape.ranks
        if kind not in model.own:
            pipe = _twin(model.plain)
            spread_by_diffusers(pipe.transformer, ranks, ring=kind is StrategyKind.DIFFUSERS_RING)
            model.own[kind] = pipe
        pipe = model.own[kind]

        def call() -> Tensor | None:
            with own_attention(self._device):
                latents = self._draw(pipe)
            return latents if dist.get_rank() == ranks - 1 else None

        return call

    @torch.no_grad()
    def _draw(self, pipe: Any) -> Tensor | None:
        embeds, pooled = self._model.text
        output = pipe(
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled,
            width=self._size.width,
            height=self._size.height,
            num_inference_steps=self._shape.steps,
            guidance_scale=self._shape.guidance,
            max_sequence_length=embeds.shape[1],
            generator=torch.Generator("cpu").manual_seed(self._seed),
            output_type="latent",
            callback_on_step_end=self._clock.note_step,
        )
        latents: Tensor | None = None if output is None else output.images
        return latents

    # -- measurements ------------------------------------------------------------------------------

    def time(self, strategy: Strategy | None) -> Timed:
        """A denoising step on this rank: the mean of a call's, from the first call of its transformer on."""
        assert strategy is not None
        call, steps = self._call(strategy), self._shape.steps
        self._clock = _Clock(self._device, steps)
        barrier(self._device)
        with self._hooks(), time_attention(type(self._model.plain).__name__, self._device) as watch:
            call()
        synchronize(self._device)
        if self._clock.start is None:  # this rank had nothing to do
            return Timed(0.0, 0.0)
        attention = None if strategy.captured else watch.seconds / steps  # of a replay nobody sees it
        return Timed((self._clock.end - self._clock.start) / steps, attention)

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        model = self._model
        transformers = [pipe.transformer for pipe in (model.plain, model.pipe, *model.own.values())]
        handles = [each.register_forward_pre_hook(self._clock.note_start) for each in transformers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def trace(self, strategy: Strategy) -> Traced | None:
        """Record the attention calls of the last denoising step; rank 0 returns what all ranks did.

        The unmodified pipeline and diffusers' own context parallel compute attention where nothing is recorded.
        """

        def on_start(trace: Trace) -> None:
            self._clock = _LastStep(trace, self._device, self._shape.steps)

        sharded = strategy.kind is not StrategyKind.SINGLE and not strategy.kind.of_diffusers
        call = self._call(strategy.launched)
        return traced_call(call, str(strategy), self._device, through_usp=sharded, on_start=on_start)

    def check(self, strategy: Strategy) -> Checked:
        """Call it until it has chosen what it does, then twice: with empty buffers, for the memory, and to look at it.

        So everything that follows, the timed calls too, is of what was chosen. Memory and traffic of a captured call
        are those of the call as it is.
        """
        call = self._call(strategy.launched)
        if isinstance(strategy.schedule, Auto):
            settle(call, self._device)
        ring = strategy.kind is StrategyKind.DIFFUSERS_RING
        own = partial(count_own_traffic, self._shape.ranks, ring=ring)
        latents, figures = observe(call, self._device, own if strategy.kind.of_diffusers else count_traffic)
        if strategy.captured:
            latents = self._captured.replayed(strategy, self._call(strategy))
        return Checked(
            difference=0.0 if latents is None else largest((latents.double() - self._expected.double()).abs()),
            scale=largest(self._expected.double().abs()),
            rows=0 if latents is None else latents.shape[1],
            **figures,
            picture=self._picture(latents) if self._pictures and latents is not None else None,
        )

    def _picture(self, latents: Tensor) -> Pixels:
        pipe = self._model.plain
        pixels: Pixels = decoded(pipe, unpacked(pipe, latents, self._size), "np")[0].astype("float32")
        return pixels


def _twin(pipe: Any) -> Any:
    """Another pipeline around the same weights, which stays as diffusers made it when xfuser changes the first."""
    parts = {"transformer": with_same_weights(pipe.transformer), "scheduler": copy.deepcopy(pipe.scheduler)}
    twin = type(pipe)(**{**pipe.components, **parts})
    twin.set_progress_bar_config(disable=True)
    return twin
