"""What each rank of an engine serves: it loads a pipeline, then requests, one after the other, with the other ranks."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from tokenring_xdit.devices import rank_device
from tokenring_xdit.errors import CancelledError, ConfigurationError
from tokenring_xdit.hosts.calls import Output
from tokenring_xdit.hosts.parallelize import engine_host, parallelize
from tokenring_xdit.hosts.xfuser import graph_reports
from tokenring_xdit.pipelines.environment import quieten
from tokenring_xdit.pipelines.loading import load_pipeline
from tokenring_xdit.pipelines.messages import Served, ServeRequest, Setup, StepDone
from tokenring_xdit.pipelines.preview import Preview
from tokenring_xdit.pipelines.request import call_arguments, media_of, unpacked
from tokenring_xdit.pipelines.request_meter import RequestMeter
from tokenring_xdit.workers.loop import Commands, Mailbox
from tokenring_xdit.workers.messages import Failed, Phase, Progress
from tokenring_xdit.workers.world import join_world

__all__ = ["Server", "commands"]


def commands(mailbox: Mailbox) -> Commands:
    """Load a model, then serve requests."""
    server: Server | None = None

    def load(setup: Setup) -> Failed | None:
        nonlocal server
        try:
            server = Server(setup, mailbox)
        except Exception as error:
            traceback.print_exc()
            return Failed.of(error, phase=Phase.LOADING)
        return None

    def serve(command: ServeRequest) -> Served | Failed:
        assert server is not None
        return server.serve(command)

    return {Setup: load, ServeRequest: serve}


class Server:
    """The pipeline of one rank.

    Every diffusers pipeline, and every one of xfuser's, moves ``self.progress_bar`` on once a step: that is where
    steps are counted and where the ranks agree to give up.

    Args:
        setup: What to load; all ranks of a world have the same.
        mailbox: Where cancellations come from and progress goes.
    """

    def __init__(self, setup: Setup, mailbox: Mailbox) -> None:
        quieten()
        self._mailbox = mailbox
        self._rank, self._ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        device = rank_device()
        if self._ranks > 1:
            join_world(device, timedelta(seconds=setup.timeout))
            self._control = dist.new_group(backend="gloo")
        self._pipe = load_pipeline(setup.model, setup.dtype, device, setup.choice)
        self._class = type(self._pipe)
        self._preview = Preview(self._pipe)
        if self._ranks > 1:
            parallelize(
                self._pipe,
                host=engine_host(self._class.__name__),
                tokenring_degree=setup.dims.tokenring,
                ulysses_degree=setup.dims.ulysses,
                schedule=setup.dims.schedule,
                attention_backend=setup.attention_backend,
                output=Output.FIRST_RANK,
                cuda_graphs=setup.cuda_graphs,
            )
        self._phase = Phase.BEFORE
        self._shows: Callable[[int], bool] = lambda step: False
        self._pipe.progress_bar = self._progress_bar
        self._meter = RequestMeter(device, self._ranks)

    def serve(self, command: ServeRequest) -> Served | Failed:
        """Serve a request on all ranks together; the first one returns what was made."""
        self._meter.begin()
        answer = self._answer(command)  # whose tensors are gone by now
        if isinstance(answer, Failed):
            return answer
        figures = self._meter.end()
        if command.preview:  # while the first rank draws, others wait
            figures = replace(figures, exposed=None)
        return replace(answer, figures=figures)

    def _answer(self, command: ServeRequest) -> Served | Failed:
        self._shows, self._phase = command.shows, Phase.BEFORE
        try:
            arguments = call_arguments(self._class, unpacked(command.request))
            if command.preview:
                arguments |= self._preview.arguments(arguments)
            output = self._pipe(**arguments)
            if self._rank != 0:
                return Served([], {})
            return Served([_portable(medium) for medium in media_of(output)], graph_reports(self._pipe))
        except Exception as error:
            return self._failed(error)
        finally:
            self._preview.forget()
            gc.collect()  # a failed call leaves its tensors in cycles of frames
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # not run on a GPU

    def _failed(self, error: Exception) -> Failed:
        if self._phase is Phase.BEFORE and isinstance(error, (TypeError, ValueError)):
            error = ConfigurationError(f"{self._class.__name__} refuses this request: {error}").with_traceback(
                error.__traceback__
            )
        return Failed.of(error, phase=self._phase)

    def _progress_bar(self, iterable: Any = None, total: int | None = None) -> tqdm:
        self._phase = Phase.STEPS
        return _Steps(self._step_over, self._steps_over, iterable, total=total, disable=True)

    def _step_over(self, step: int, steps: int) -> None:
        self._meter.look()
        if self._agreed(self._mailbox.cancelled()):
            raise CancelledError(f"the request was cancelled after step {step} of {steps}")
        if self._rank == 0:
            picture = self._preview.draw() if self._shows(step) else None
            assert self._mailbox.number is not None
            self._mailbox.answer(Progress(self._mailbox.number, StepDone(step, steps, picture)))

    def _steps_over(self) -> None:
        self._phase = Phase.AFTER

    def _agreed(self, mine: bool) -> bool:
        """What the first rank says, on all ranks."""
        if self._ranks == 1:
            return mine
        flag = torch.tensor([mine])
        dist.broadcast(flag, 0, group=self._control)
        return bool(flag.item())


class _Steps(tqdm):  # type: ignore[misc]
    """A progress bar that shows nothing and tells of each step."""

    def __init__(
        self, on_step: Callable[[int, int], None], on_end: Callable[[], None], *args: Any, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._on_step, self._on_end = on_step, on_end

    def update(self, n: float | None = 1) -> None:
        self.n += n or 1
        self._on_step(int(self.n), int(self.total))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._on_end()
        super().__exit__(kind, error, trace)


def _portable(medium: Any) -> Any:
    return medium.cpu() if isinstance(medium, Tensor) else medium
