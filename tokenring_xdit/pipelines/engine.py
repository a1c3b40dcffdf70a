"""Pictures and videos from Python, on several ranks, without ``torchrun``."""

from __future__ import annotations

import functools
import logging
import pickle
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from tqdm.auto import tqdm

from tokenring_xdit import liveness
from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.defaults import DEFAULT_SCHEDULE, LARGEST_SIDE
from tokenring_xdit.devices import default_dtype, refuse_missing_gpus
from tokenring_xdit.dtypes import parse_dtype
from tokenring_xdit.errors import CancelledError, ConfigurationError, EngineError, LaunchError
from tokenring_xdit.graphs import GraphReport, refuse_without_cuda
from tokenring_xdit.hosts.calls import GRAPHS_NEED_RANKS
from tokenring_xdit.hosts.xfuser import AttentionBackend
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.loading import find_model, pipeline_class_of
from tokenring_xdit.pipelines.messages import Served, ServeRequest, Setup, StepDone
from tokenring_xdit.pipelines.options import is_number, is_whole
from tokenring_xdit.pipelines.replicas import LOADING, Replicas, ReplicaShare, error_of
from tokenring_xdit.pipelines.request import Request, call_arguments, pipeline_class
from tokenring_xdit.workers.attempt import carry_through
from tokenring_xdit.workers.messages import Task
from tokenring_xdit.workers.signals import CountedInterrupts
from tokenring_xdit.workers.state import Cancel, CancelAsked, Instruction, Interrupted, Limits, RequestAttempt, Restart
from tokenring_xdit.workers.worker import Worker, hear

__all__ = ["Engine", "Step"]

log = logging.getLogger(__name__)

_SECONDS_TO_EXPLAIN = 10.0
"""How long the other ranks get to report after one has failed; one of them may be the cause."""

_DRAWN_SEEDS = 2**31
"""Seeds that are drawn are below this, short enough to be typed again."""


@dataclass(frozen=True)
class Step:
    """A denoising step that is over.

    Attributes:
        step: Its number, from one.
        steps: How many there are.
        prompts: Positions of the prompts that it was for: all of them, or a replica's under data parallel.
        preview: A PIL picture of what the first of these will look like; ``None`` where none was asked for or the
            pipeline has none (see :class:`tokenring_xdit.pipelines.preview.Preview`).
    """

    step: int
    steps: int
    prompts: range
    preview: Any


class Engine:
    """A diffusers pipeline on several ranks of this machine, which load it once and serve one request after another.

    ::

        import tokenring_xdit

        with tokenring_xdit.Engine("black-forest-labs/FLUX.1-dev", tokenring_degree=4) as engine:
            first, second = engine.generate(["a photo of a fox", "a photo of a hare"], steps=28, seed=1)
            first.save("fox.png")

    Works in notebooks and in scripts without a ``__main__`` guard. A request that fails, or is cancelled, raises one
    readable error and the next one is served. The ranks keep their model where all of them stopped at the same point;
    where one died, hung, or failed in the middle of a step (memory that runs out there, say), they are started again,
    as messages may be left between them. They end when the engine is closed or garbage-collected, and when its process
    ends, however that happens.

    While :meth:`generate` runs in the main thread, Ctrl-C (a notebook's *interrupt* too) gives the request up at the
    next step and raises ``KeyboardInterrupt``; a second one does not wait for that step, and costs loading again.

    Args:
        model: Folder or hub name of a diffusers pipeline; ``embedded`` is the small Flux of this package,
            ``random-flux:...`` one with random weights.
        tokenring_degree: Ranks that TokenRing shards the sequence over.
        ulysses_degree: Ranks that Ulysses shards the heads over.
        schedule: What the TokenRing ranks exchange and when.
        attention_backend: xfuser's kernel for attention on one rank; one rank alone has diffusers' own.
        data_parallel_degree: Replicas of all that; the prompts of a list are dealt out to them.
        dtype: ``float32``, ``bfloat16`` or ``float16``; by default ``bfloat16`` on GPUs, ``float32`` without.
        timeout: Seconds without any sign of life from the ranks, while loading or between steps, after which they
            are given up. A rank that dies is known at once, one that is stopped after
            ``TOKENRING_LIVENESS_LIMIT`` seconds (30).
        largest_side: Pixels that width and height may have; more are taken for a slip of the finger.
        cuda_graphs: Capture calls of the transformer as CUDA graphs, and replay them (``docs/gpu.md``).

    Attributes:
        last_seed: Seed of the last request, given or drawn; ``None`` before the first.
        graph_reports: What became of the transformers' calls until the end of the last request, by name, for each
            replica that it was dealt out to; empty without ``cuda_graphs``.

    Raises:
        ConfigurationError: There is no such model, a degree cannot work, or there are fewer GPUs than ranks.
        UnsupportedError: The pipeline was not compared with the single process, or does not take the degrees.
        EngineError: A rank failed while it loaded; the message names its log.
    """

    def __init__(
        self,
        model: str,
        *,
        tokenring_degree: int = 1,
        ulysses_degree: int = 1,
        schedule: str = DEFAULT_SCHEDULE,
        attention_backend: str | AttentionBackend = AttentionBackend.AUTO,
        data_parallel_degree: int = 1,
        dtype: str | None = None,
        timeout: float = 1800.0,
        largest_side: int = LARGEST_SIDE,
        cuda_graphs: bool = False,
    ) -> None:
        self._degrees = ParallelDims(ulysses=ulysses_degree, tokenring=tokenring_degree, schedule=schedule)
        backend = AttentionBackend.parse(attention_backend)
        backend.refuse_missing()
        if not isinstance(model, str):
            raise ConfigurationError(f"model is {model!r}; it has to be the folder or hub name of a pipeline")
        if not is_whole(data_parallel_degree) or data_parallel_degree < 1:
            raise ConfigurationError(
                f"data_parallel_degree is {data_parallel_degree!r}; it has to be a whole number of at least 1"
            )
        if not is_whole(largest_side) or largest_side < 1:
            raise ConfigurationError(
                f"largest_side is {largest_side!r}; it has to be a whole number of pixels of at least 1"
            )
        if not is_number(timeout) or timeout <= 0:
            raise ConfigurationError(f"timeout is {timeout!r}; it has to be a positive number of seconds")
        if not isinstance(cuda_graphs, bool):
            raise ConfigurationError(f"cuda_graphs is {cuda_graphs!r}; it has to be True or False")
        if cuda_graphs and self._degrees.ranks == 1:
            raise ConfigurationError(GRAPHS_NEED_RANKS)
        if cuda_graphs:
            refuse_without_cuda("cuda_graphs=True")
        liveness.limit()  # is read by each request
        self._class = pipeline_class(pipeline_class_of(model))
        self._model = find_model(model)
        self._model.refuse_degrees(self._degrees)
        check_versions()
        refuse_missing_gpus(self._degrees.ranks * data_parallel_degree)
        setup = Setup(
            model=self._model.name,
            dtype=default_dtype() if dtype is None else parse_dtype(dtype),
            dims=self._degrees,
            attention_backend=backend.value,
            timeout=2 * timeout,  # longer than this process waits, which can say more
            cuda_graphs=cuda_graphs,
        )
        self.last_seed: int | None = None
        self.graph_reports: tuple[Mapping[str, GraphReport], ...] = ()
        self._timeout = timeout
        self._largest_side = largest_side
        self._requests = 0
        self._serving = threading.Lock()
        self._served_by: int | None = None
        self._cancelled = threading.Event()
        self._replicas = Replicas(data_parallel_degree, self._degrees.ranks, setup)
        self._finalizer = weakref.finalize(self, self._replicas.close)
        try:
            with self._one_at_a_time():
                self._start_missing()
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> list[int]:
        """Process ids of the ranks, by replica and rank; empty before they are started again after a failure."""
        return [process for share in self._replicas.running for process in share.pool.processes]

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        width: int | None = None,
        height: int | None = None,
        frames: int | None = None,
        steps: int | None = None,
        seed: int | None = None,
        guidance: float | None = None,
        callback: Callable[[Step], object] | None = None,
        preview: bool = False,
        progress: bool = True,
        **options: Any,
    ) -> list[Any]:
        """Make pictures or videos; what is ``None`` is left to the pipeline.

        The prompts of a list are made together, as one batch or dealt out to the replicas. Each picture has its own
        seed, the first one ``seed`` and the next ones the numbers that follow, so it is the same however it is made.

        Args:
            prompt: One prompt, or a list.
            negative_prompt: What to guide away from: one for all, or one for each prompt.
            width: Width in pixels.
            height: Height in pixels.
            frames: Frames of a video.
            steps: Denoising steps.
            seed: Seed of the first picture; without one a seed is drawn, which :attr:`last_seed` tells.
            guidance: Guidance scale.
            callback: Called in this thread after each step; what it raises cancels the request and is raised here.
            preview: Show the callback what is about to be made; every preview costs a decoding.
            progress: Show a progress bar.
            **options: Further arguments of the diffusers pipeline's call.

        Returns:
            A PIL picture for each prompt, or a list of PIL frames for each, without sound; ``output_type="latent"``,
            ``"np"`` or ``"pt"`` gives what the pipeline makes of it instead.

        Raises:
            TokenRingError: The request was refused; the message says what the pipeline takes.
            CancelledError: :meth:`cancel` was called.
            EngineError: A rank failed; the message names it, its error and its log.
            KeyboardInterrupt: It was interrupted.
        """
        if callback is not None and not callable(callback):
            raise ConfigurationError(f"callback is {callback!r}; it has to be a function of one Step")
        request = self._checked(
            Request(
                prompt=_frozen(prompt),
                negative_prompt=_frozen(negative_prompt),
                width=width,
                height=height,
                frames=frames,
                steps=steps,
                seed=secrets.randbelow(_DRAWN_SEEDS) if seed is None else seed,
                guidance=guidance,
                options=options,
                largest_side=self._largest_side,
            )
        )
        with self._one_at_a_time():
            self._cancelled.clear()
            self._start_missing()
            self._requests += 1
            self.last_seed = request.seed
            shares = self._dealt(request)
            hidden = not progress or getattr(sys.stderr, "closed", sys.stderr is None)  # as in some daemons
            with tqdm(desc="denoising", disable=hidden, leave=False, mininterval=0) as bar:

                def show(share: ReplicaShare, done: StepDone) -> None:
                    bar.total = done.steps * len(shares)
                    bar.update()
                    if callback is not None:
                        callback(Step(done.step, done.steps, share.prompts, done.preview))

                commands = [
                    ServeRequest(request.part(share.prompts.start, share.prompts.stop), preview) for share in shares
                ]
                attempt = self._carry_through(self._requests, shares, commands, show)
            served: list[Served] = [attempt.answers(team)[0] for team in range(len(shares))]
            self.graph_reports = tuple(each.graphs for each in served if each.graphs)
            return [medium for each in served for medium in each.media]

    def cancel(self) -> None:
        """Give the running request up at its next step, from any thread; without one nothing happens."""
        self._cancelled.set()
        self._replicas.inbox.put((None, CancelAsked(self._requests)))

    def close(self) -> None:
        """End the ranks; a request that runs fails. May be called again."""
        self._finalizer()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, request: Request) -> Request:
        request = self._model.complete(request)
        call_arguments(self._class, request)
        self._model.check_request(self._degrees, request)
        for name, value in request.options.items():
            try:
                pickle.dumps(value)
            except Exception as error:
                raise ConfigurationError(f"option '{name}' cannot be sent to the ranks: {error}") from error
        return request

    def _dealt(self, request: Request) -> list[ReplicaShare]:
        """The prompts in contiguous shares, as equal as can be."""
        prompts, replicas = len(request.prompts), self._replicas.running
        shares = min(prompts, len(replicas))
        tensors = [name for name, value in request.options.items() if isinstance(value, torch.Tensor)]
        if shares > 1 and tensors:
            raise ConfigurationError(
                f"option '{tensors[0]}' is a tensor, which is not dealt out to {shares} replicas: pass one prompt at a "
                "time, or use data_parallel_degree=1"
            )
        cuts = [prompts * share // shares for share in range(shares + 1)]
        return [replace(replicas[i], prompts=range(cuts[i], cuts[i + 1])) for i in range(shares)]

    def _start_missing(self) -> None:
        """Start ranks that are not there, and wait until they have loaded."""
        try:
            started = self._replicas.start_missing()
        except BaseException as error:
            self._replicas.drop_all()
            if isinstance(error, LaunchError):
                raise EngineError(str(error)) from error
            raise
        if started:
            log.info("starting %d replicas of %d ranks", len(started), self._degrees.ranks)
            self._carry_through(LOADING, started)

    def _carry_through(
        self,
        number: int,
        shares: Sequence[ReplicaShare],
        commands: Sequence[ServeRequest] = (),
        show: Callable[[ReplicaShare, StepDone], None] | None = None,
    ) -> RequestAttempt[Worker]:
        """Have the ranks carry a request out, drop those that cannot carry out another, and raise what went wrong.

        While this waits in the main thread, Ctrl-C is counted instead of raised, so that no answer is lost: the first
        one cancels the request, the second one gives the ranks up.
        """
        inbox = self._replicas.inbox
        limits = Limits(self._timeout, _SECONDS_TO_EXPLAIN, liveness.limit())
        attempt = RequestAttempt(number, [share.pool.workers for share in shares], limits, time.monotonic())
        raised: list[BaseException] = []  # by the callback

        def carry_out(instruction: Instruction) -> None:
            share = shares[instruction.team]
            if isinstance(instruction, Cancel):
                share.pool.cancel(number)
            elif isinstance(instruction, Restart):
                self._replicas.drop(share.pool)
            elif show is not None and not raised:
                try:
                    with interrupts.raised():
                        show(share, instruction.content)
                except BaseException as error:
                    raised.append(error)
                    inbox.put((None, CancelAsked(number)))

        try:
            for share, command in zip(shares, commands, strict=False):
                share.pool.send(Task(number, command))
            if number != LOADING and self._cancelled.is_set():  # while the ranks were started
                inbox.put((None, CancelAsked(number)))
            with CountedInterrupts(lambda: inbox.put((None, Interrupted(number)))) as interrupts:
                carry_through(attempt, functools.partial(hear, inbox), carry_out)
        except BaseException:  # where even the waiting was broken off, nothing is known of these ranks
            for share in shares:
                self._replicas.drop(share.pool)
            raise
        if interrupts.count:
            raise KeyboardInterrupt
        if raised:
            raise raised.pop()
        self._refuse_closed("was closed while it served this request")
        if number != LOADING and self._cancelled.is_set():
            raise CancelledError("the request was cancelled")
        failed = [team for team in range(len(shares)) if not attempt.succeeded(team)]
        errors = [error_of(attempt, team, shares[team]) for team in failed]
        for error in sorted(errors, key=lambda error: isinstance(error, CancelledError)):
            raise error
        return attempt

    def _refuse_closed(self, how: str = "was closed") -> None:
        if not self._replicas.here:
            raise ConfigurationError(
                "this process is a fork of the one whose engine this is: make an engine of its own"
            )
        if not self._finalizer.alive:
            raise ConfigurationError(f"this engine {how}: make a new one")

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        self._refuse_closed()
        if self._served_by == threading.get_ident():
            raise ConfigurationError("this engine is serving the request whose callback asks for another one")
        with self._serving:
            self._refuse_closed()
            self._served_by = threading.get_ident()
            try:
                yield
            finally:
                self._served_by = None


def _frozen(prompts: Any) -> Any:
    return tuple(prompts) if isinstance(prompts, list) else prompts
