"""What an engine does with a diffusers pipeline."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from tqdm.auto import tqdm

from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.dtypes import parse_dtype
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.graphs import GraphReport, refuse_without_cuda
from tokenring_xdit.hosts.models import pipeline_named
from tokenring_xdit.hosts.parallelize import refuse_engine_host
from tokenring_xdit.hosts.xfuser import AttentionBackend
from tokenring_xdit.parallel import GRAPHS_NEED_RANKS, ParallelDims
from tokenring_xdit.pipelines.choice import PipelineChoice
from tokenring_xdit.pipelines.engine_ranks import EngineRanks, Turn, checked_timeout, refuse_below_one
from tokenring_xdit.pipelines.loading import find_model, pipeline_class_of, refuse_choice
from tokenring_xdit.pipelines.messages import RankFigures, Served, ServeRequest, Setup, Step, StepDone
from tokenring_xdit.pipelines.pending import PendingPictures
from tokenring_xdit.pipelines.pictures import PICTURES, VIDEOS
from tokenring_xdit.pipelines.places import name_on_ranks, place_for
from tokenring_xdit.pipelines.replicas import ReplicaShare
from tokenring_xdit.pipelines.request import Request, call_arguments, packed, pipeline_class
from tokenring_xdit.pipelines.values import is_whole, shortly

__all__ = ["Pictures"]


class Pictures:
    """A diffusers pipeline on the ranks of an engine; see :class:`tokenring_xdit.pipelines.engine.Engine`.

    Attributes:
        ranks: Its ranks.
        last_seed: Seed of the last request; ``None`` before the first.
        largest_side: Pixels that width and height may have.
        graph_reports: See :attr:`tokenring_xdit.pipelines.engine.Engine.graph_reports`.
        figures: What the last request that was served took of each rank, by replica and rank.
    """

    def __init__(
        self,
        model: str,
        *,
        dims: ParallelDims,
        attention_backend: str | AttentionBackend,
        data_parallel_degree: int,
        dtype: str | None,
        timeout: float,
        largest_side: int,
        cuda_graphs: bool,
        choice: PipelineChoice,
        ray: Any = None,
    ) -> None:
        self._degrees = dims
        backend = AttentionBackend.parse(attention_backend)
        if ray is None:  # else the ranks say what their machines lack
            backend.refuse_missing()
        refuse_below_one(data_parallel_degree=data_parallel_degree, largest_side=largest_side)
        timeout = checked_timeout(timeout)
        if not isinstance(cuda_graphs, bool):
            raise ConfigurationError(f"cuda_graphs is {cuda_graphs!r}; it has to be True or False")
        if cuda_graphs and self._degrees.ranks == 1:
            raise ConfigurationError(GRAPHS_NEED_RANKS)
        if cuda_graphs and ray is None:
            refuse_without_cuda("cuda_graphs=True")
        self._class = pipeline_class(pipeline_class_of(model, choice))
        self._model = find_model(model, choice)
        self._model.refuse_degrees(self._degrees)
        refuse_choice(model, choice)
        refuse_engine_host(
            self._class.__name__,
            dims.ranks,
            ulysses_degree=dims.ulysses,
            attention_backend=backend,
            cuda_graphs=cuda_graphs,
        )
        check_versions()
        said = None if dtype is None else parse_dtype(dtype)
        place, usual = place_for(
            ray,
            "tokenring_xdit.pipelines.messages",
            ranks=self._degrees.ranks,
            worlds=data_parallel_degree,
            ulysses=self._degrees.ulysses,
        )
        loras = tuple(replace(lora, path=name_on_ranks(lora.path, ray)) for lora in choice.loras)
        controlnet = None if choice.controlnet is None else name_on_ranks(choice.controlnet, ray)
        setup = Setup(
            model=name_on_ranks(self._model.name, ray),
            dtype=usual if said is None else said,
            dims=self._degrees,
            attention_backend=backend.value,
            timeout=2 * timeout,  # longer than this process waits, which can say more
            cuda_graphs=cuda_graphs,
            choice=replace(choice, loras=loras, controlnet=controlnet),
        )
        self.last_seed: int | None = None
        self.largest_side = largest_side
        self.graph_reports: tuple[Mapping[str, GraphReport], ...] = ()
        self.figures: tuple[RankFigures, ...] = ()
        self.ranks = EngineRanks(
            "tokenring_xdit.pipelines.serving",
            setup,
            ranks=self._degrees.ranks,
            replicas=data_parallel_degree,
            timeout=timeout,
            place=place,
        )

    def make(
        self,
        request: Request,
        callback: Callable[[Step], object] | None,
        preview: bool | Collection[int],
        progress: bool,
    ) -> list[Any]:
        """Make what :meth:`check` has returned; see :meth:`tokenring_xdit.pipelines.engine.Engine.generate`."""
        if callback is not None and not callable(callback):
            raise ConfigurationError(f"callback is {callback!r}; it has to be a function of one Step")
        shown = _shown(preview)
        turn = self.ranks.stand_in_line()
        with self.ranks.taken(turn):
            return self._made(turn, request, callback, shown, progress)

    def submit(self, request: Request, preview: bool | Collection[int]) -> PendingPictures:
        """Make it in a thread; see :meth:`tokenring_xdit.pipelines.engine.Engine.submit`."""
        shown, asked = _shown(preview), packed(request)  # pictures may be closed or changed before their turn
        return PendingPictures(
            self.ranks, lambda turn, hear: self._made(turn, asked, hear, shown, progress=False), asked
        )

    def _made(
        self,
        turn: Turn,
        request: Request,
        callback: Callable[[Step], object] | None,
        shown: bool | frozenset[int],
        progress: bool,
    ) -> list[Any]:
        """What is made; the turn is taken."""
        self.last_seed = request.seed
        shares = self._dealt(request)
        hidden = not progress or getattr(sys.stderr, "closed", sys.stderr is None)  # as in some daemons
        with tqdm(desc="denoising", disable=hidden, leave=False, mininterval=0) as bar:

            def show(share: ReplicaShare, done: StepDone) -> None:
                bar.total = done.steps * len(shares)
                bar.update()
                if callback is not None:
                    callback(Step(done.step, done.steps, share.prompts, done.preview))

            commands = [ServeRequest(self._part(request, share.prompts), shown) for share in shares]
            attempt = self.ranks.serve(turn, shares, commands, show)
        answers: list[list[Served]] = [attempt.answers(team) for team in range(len(shares))]
        served = [ranks[0] for ranks in answers]
        self.figures = tuple(each.figures for ranks in answers for each in ranks)
        self.graph_reports = tuple(each.graphs for each in served if each.graphs)
        return [medium for each in served for medium in each.media]

    def check(self, request: Request) -> Request:
        """Refuse a request before any work; returns it with what the model knows better than its pipeline."""
        request = self._model.complete(request)
        call_arguments(self._class, request)
        self._model.check_request(self._degrees, request)
        for name, value in request.options.items():
            if name in PICTURES | VIDEOS:  # which are packed
                continue
            try:
                self.ranks.packing.pack(value)
            except Exception as error:
                raise ConfigurationError(f"option '{name}' cannot be sent to the ranks: {error}") from error
        return request

    def _part(self, request: Request, prompts: range) -> Request:
        references = pipeline_named(self._class.__name__).references
        return packed(request.part(prompts.start, prompts.stop, references=references))

    def _dealt(self, request: Request) -> list[ReplicaShare]:
        """The prompts in contiguous shares, as equal as can be."""
        prompts, replicas = len(request.prompts), self.ranks.running
        shares = min(prompts, len(replicas))
        tensors = [name for name, value in request.options.items() if isinstance(value, torch.Tensor)]
        if shares > 1 and tensors:
            raise ConfigurationError(
                f"option '{tensors[0]}' is a tensor, which is not dealt out to {shares} replicas: pass one prompt at a "
                "time, or use data_parallel_degree=1"
            )
        cuts = [prompts * share // shares for share in range(shares + 1)]
        return [replace(replicas[i], prompts=range(cuts[i], cuts[i + 1])) for i in range(shares)]


def _shown(preview: Any) -> bool | frozenset[int]:
    if isinstance(preview, bool):
        return preview
    if not isinstance(preview, Collection) or not all(map(is_whole, preview)):
        raise ConfigurationError(f"preview is {shortly(preview)}; it has to be True, False or numbers of steps")
    return frozenset(preview)
