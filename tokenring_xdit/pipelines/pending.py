"""What is on its way: heard of piece by piece, waited for, or given up; from any thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tokenring_xdit.pipelines.engine_ranks import EngineRanks, Turn
from tokenring_xdit.pipelines.messages import Step
from tokenring_xdit.pipelines.request import Request
from tokenring_xdit.workers.signals import CountedInterrupts

__all__ = ["PendingPictures", "PendingReply", "PendingWork", "Pieces", "Reply", "in_thread"]

T = TypeVar("T")
Made = TypeVar("Made")
Piece = TypeVar("Piece")


@dataclass(frozen=True)
class Reply:
    """An answer of a language model.

    Attributes:
        text: The answer.
        tokens: Its tokens, as numbers of the model's vocabulary.
        prompt_tokens: Tokens of the conversation before it.
        reused_tokens: How many of these had been computed before.
        ended: Whether the model or a text of ``stop`` ended it; ``False`` if it reached the limit of tokens.
        keys: Tokens of the conversation whose keys each rank holds, in the layer with most.
        seed: Seed of the sampling.
        seconds: Seconds that the ranks took.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    reused_tokens: int
    ended: bool
    keys: tuple[int, ...]
    seed: int
    seconds: float


class PendingWork(Generic[Made, Piece]):
    """What ranks are asked for and is on its way, in a thread of its own.

    Args:
        ranks: Who do it, one request after the other.
        work: Does it, when the turn has come; called with the turn and with a function that takes pieces.
    """

    def __init__(self, ranks: EngineRanks, work: Callable[[Turn, Callable[[Piece], None]], Made]) -> None:
        self._ranks = ranks
        self._work: Callable[[Turn, Callable[[Piece], None]], Made] | None = work
        self._heard: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._made: Made | None = None
        self._error: BaseException | None = None
        self._turn = ranks.stand_in_line()
        in_thread(ranks, self._turn, self._run)

    @property
    def done(self) -> bool:
        """Whether there is nothing to wait for: it is made, has failed, or was given up."""
        return self._over.is_set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for it to be given up."""
        return self._turn.cancelled

    def cancel(self) -> None:
        """Give it up, before its turn or at its next step or token; no other request, and waits for nothing."""
        if not self.done:
            self._ranks.cancel(self._turn)

    def result(self, timeout: float | None = None) -> Made:
        """Wait for all of it.

        Args:
            timeout: Seconds; ``None`` for as long as the engine waits for its ranks.

        Raises:
            TimeoutError: It is still on its way.
            CancelledError: It was given up.
            EngineError: A rank failed; the message names it, its error and its log.
            KeyboardInterrupt: It was interrupted, and so given up.
            TokenRingError: The ranks refuse the request.
        """
        if not self._wait(lambda: self._over.wait(timeout)):
            raise TimeoutError(f"it is still on its way after {timeout:g} s: wait again, or cancel it")
        if self._error is not None:
            raise self._error
        assert self._made is not None
        return self._made

    def next_piece(self) -> Piece | None:
        """Wait for the next piece; ``None`` behind the last one, where :meth:`result` raises what went wrong."""
        piece = self._wait(self._heard.get)
        if piece is None:
            self._heard.put(None)  # for whoever asks again
        return piece

    def _run(self) -> None:
        try:
            with self._ranks.taken(self._turn):
                assert self._work is not None
                self._made = self._work(self._turn, self._hear)
        except BaseException as error:
            self._error = error
        finally:
            self._work = None  # which refers to this, by its chat
            self._over.set()
            self._heard.put(None)

    def _hear(self, piece: Piece) -> None:
        if piece:
            self._heard.put(piece)

    def _wait(self, wait: Callable[[], T]) -> T:
        try:
            with CountedInterrupts(lambda: self._ranks.interrupt(self._turn)) as interrupts:
                found = wait()
                if interrupts.count:
                    self._over.wait()
        except BaseException:
            self.cancel()
            raise
        if interrupts.count:
            raise KeyboardInterrupt
        return found


class PendingReply(PendingWork[Reply, str]):
    """A running answer; its arguments are those of :class:`PendingWork`."""

    def pieces(self) -> Pieces:
        """The answer piece by piece, as it comes, for one reader; closing or dropping the iterator cancels it."""
        return Pieces(self)


class PendingPictures(PendingWork[list[Any], Step]):
    """Pictures or videos that are being made.

    Args:
        ranks: As for :class:`PendingWork`.
        work: As for it.
        request: The request.

    Attributes:
        seed: Seed of the first picture.
    """

    def __init__(
        self, ranks: EngineRanks, work: Callable[[Turn, Callable[[Step], None]], list[Any]], request: Request
    ) -> None:
        self.seed, self._prompts = request.seed, len(request.prompts)
        self._times: dict[range, tuple[float, float, Step]] = {}  # the first and latest of each replica's prompts
        super().__init__(ranks, work)

    def steps(self) -> Iterator[Step]:
        """Its steps as they are made, for one reader; after a failure, they end with the error of :meth:`result`."""
        while (step := self.next_piece()) is not None:
            yield step
        self.result()

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds of the remaining steps, from those before; ``None`` before there were two."""
        if self.done:
            return 0.0
        times, now = dict(self._times), time.monotonic()
        if sum(map(len, times)) < self._prompts or any(step.step < 2 for _, _, step in times.values()):
            return None
        left = [
            (latest - first) / (step.step - 1) * (step.steps - step.step) - (now - latest)
            for first, latest, step in times.values()
        ]
        return max(0.0, *left)

    def _hear(self, piece: Step) -> None:
        now = time.monotonic()
        first, _, _ = self._times.get(piece.prompts, (now, now, piece))
        self._times[piece.prompts] = (first, now, piece)
        super()._hear(piece)


def in_thread(ranks: EngineRanks, turn: Turn, work: Callable[[], None]) -> None:
    """Have a thread wait for a turn, and do what it is for."""
    thread = threading.Thread(target=work, name="tokenring-turn", daemon=True)
    try:
        thread.start()
    except BaseException:  # Ctrl-C among others, after which the thread may run all the same, and leave by itself
        ranks.cancel(turn)
        if thread.ident is None:
            ranks.leave(turn)
        raise


class Pieces(Iterator[str]):
    """The pieces of an answer as they come, each of whole characters.

    Args:
        pending: The answer.
    """

    def __init__(self, pending: PendingReply) -> None:
        self._pending = pending

    def __next__(self) -> str:
        piece = self._pending.next_piece()
        if piece is None:
            self._pending.result()
            raise StopIteration
        return piece

    def close(self) -> None:
        """Give the answer up, if it is not whole yet."""
        self._pending.cancel()

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
