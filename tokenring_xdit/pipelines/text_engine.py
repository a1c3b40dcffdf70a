"""What an engine does with a language model: conversations, of which several may go on side by side."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import secrets
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.dtypes import parse_dtype
from tokenring_xdit.errors import ConfigurationError, TokenRingError
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.pipelines.engine_ranks import EngineRanks, Turn, checked_timeout, refuse_below_one
from tokenring_xdit.pipelines.messages import RankFigures
from tokenring_xdit.pipelines.pending import PendingReply, Pieces, Reply, in_thread
from tokenring_xdit.pipelines.places import name_on_ranks, place_for
from tokenring_xdit.pipelines.request import DRAWN_SEEDS
from tokenring_xdit.pipelines.text_models import beyond_context, refuse_model
from tokenring_xdit.pipelines.text_options import TextOptions
from tokenring_xdit.pipelines.text_orders import ROLES, ChatMessage, Forget, Kept, LoadText, Question, Said, asked_about
from tokenring_xdit.pipelines.values import LARGEST_SEED, is_whole, shortly

__all__ = ["Chat", "Texts", "checked_question"]

log = logging.getLogger(__name__)

Hear = Callable[[str], None]
"""Takes a piece of an answer."""


class Texts:
    """A language model on the ranks of an engine; see :class:`tokenring_xdit.pipelines.engine.Engine`.

    Attributes:
        ranks: Its ranks.
        last_seed: Seed of the last question; ``None`` before the first.
        forgotten: Chats whose keys are to be freed with the next request.
        figures: What the last question that was answered took of each rank.
    """

    def __init__(
        self,
        model: str,
        *,
        dims: ParallelDims,
        dtype: str | None,
        timeout: float,
        tokens_per_rank: int | None,
        kept_chats: int,
        ray: Any = None,
    ) -> None:
        refuse_below_one(kept_chats=kept_chats, tokens_per_rank=1 if tokens_per_rank is None else tokens_per_rank)
        timeout = checked_timeout(timeout)
        refuse_model(model)
        check_versions()
        said = None if dtype is None else parse_dtype(dtype)
        place, usual = place_for(ray, "tokenring_xdit.pipelines.text_orders", ranks=dims.ranks)
        setup = LoadText(
            model=name_on_ranks(model, ray),
            dtype=usual if said is None else said,
            timeout=2 * timeout,  # longer than this process waits, which can say more
            limit=tokens_per_rank,
            chats=kept_chats,
        )
        self._model = model
        self.last_seed: int | None = None
        self._numbers = itertools.count(1)
        self._kept: Mapping[int, int] = {}
        self.forgotten: deque[int] = deque()
        self.figures: tuple[RankFigures, ...] = ()
        self.ranks = EngineRanks(
            "tokenring_xdit.pipelines.text_rank", setup, ranks=dims.ranks, timeout=timeout, place=place
        )

    def chat(self, context: str, messages: Sequence[Mapping[str, str]]) -> Chat:
        """Begin a conversation."""
        if not isinstance(context, str):
            raise ConfigurationError(f"context is {shortly(context)}; it has to be a text")
        if not isinstance(messages, Sequence) or isinstance(messages, str):
            raise ConfigurationError(f"messages is {shortly(messages)}; it has to be a list of messages")
        said = tuple(_message(message) for message in messages)
        return Chat(self, next(self._numbers), context, said)

    def cached(self, chat: int) -> int:
        """Tokens of a chat whose keys the ranks hold."""
        return self._kept.get(chat, 0) if self.ranks.running else 0

    def free(self, close: Callable[[], object]) -> None:
        """Have the keys of forgotten chats freed when those who stand in line have been served; waits for nothing.

        Args:
            close: Forgets one more, once nothing of it is under way.
        """
        turn = self.ranks.stand_in_line()

        def freed() -> None:
            # What goes wrong with ranks ends them, and with them all keys.
            with contextlib.suppress(TokenRingError), self.ranks.taken(turn, start=False):
                close()
                shares, chats = self.ranks.running, self._drained()
                if shares and chats:
                    kept: Kept = self.ranks.serve(turn, shares, [Forget(chats)]).answers(0)[0]
                    self._kept = kept.tokens
            close()  # where this turn was cancelled: they are freed with the next request

        in_thread(self.ranks, turn, freed)

    def answer(
        self, turn: Turn, chat: int, messages: tuple[ChatMessage, ...], options: TextOptions, seed: int, hear: Hear
    ) -> Reply:
        """Have the ranks say what comes next in a conversation; the turn is taken."""
        self.last_seed = seed
        if turn.started:
            self._kept = {}
        question = Question(chat, messages, options, seed, forget=self._drained())
        try:
            attempt = self.ranks.serve(turn, self.ranks.running, [question], lambda share, piece: hear(piece))
        finally:
            if not self.ranks.running:
                self._kept = {}
        everyone: list[Said] = attempt.answers(0)
        first = everyone[0]
        for other in sorted(self._kept.keys() - first.kept.keys()):
            log.warning(
                "the keys of chat %d, %d tokens, made room for those of chat %d: its next question computes them again",
                other,
                self._kept[other],
                chat,
            )
        self._kept = first.kept
        beyond = beyond_context(self._model, first.prompt_tokens + len(first.tokens), first.context_length)
        if beyond is not None:
            log.warning("chat %d: %s", chat, beyond)
        self.figures = tuple(each.figures for each in everyone)
        return Reply(
            text=first.text,
            tokens=first.tokens,
            prompt_tokens=first.prompt_tokens,
            reused_tokens=first.reused,
            ended=first.ended,
            keys=tuple(said.keys for said in everyone),
            seed=seed,
            seconds=first.seconds,
        )

    def _drained(self) -> tuple[int, ...]:
        """Chats that are to be forgotten now, once each; any thread may name others meanwhile."""
        chats = tuple(self.forgotten.popleft() for _ in range(len(self.forgotten)))
        self._kept = {chat: tokens for chat, tokens in self._kept.items() if chat not in chats}  # whoever cancels that
        return chats


class Chat:
    """A conversation with a language model, whose keys its ranks keep: a later question computes its own tokens only.

    Made by :meth:`tokenring_xdit.Engine.chat`. A question that fails or is cancelled leaves the conversation as it
    was. If ranks were restarted, or dropped its keys for other chats, its next question computes them again.

    Attributes:
        number: Number of this chat in its engine, as messages name it.
        reply: The last answer with its figures; ``None`` before the first.
    """

    def __init__(self, texts: Texts, number: int, context: str, said: tuple[ChatMessage, ...]) -> None:
        self.number = number
        self.reply: Reply | None = None
        self._texts, self._context = texts, context
        self._said, self._given = said, len(said)
        self._pending: PendingReply | None = None
        self._asking, self._closed = threading.Lock(), False
        self._forget = weakref.finalize(self, texts.forgotten.append, number)
        self._forget.atexit = False

    @property
    def messages(self) -> list[dict[str, str]]:
        """All messages, with the context in the first question."""
        return [{"role": message.role, "content": message.content} for message in self._said]

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys the ranks hold for this chat, all of them together, since the last answer to any chat."""
        return 0 if self._closed else self._texts.cached(self.number)

    @overload
    def ask(self, question: str, *, stream: Literal[False] = False, **options: Any) -> str: ...

    @overload
    def ask(self, question: str, *, stream: Literal[True], **options: Any) -> Pieces: ...

    def ask(self, question: str, *, stream: bool = False, **options: Any) -> str | Pieces:
        """Ask a question, and wait for the answer.

        Args:
            question: The question.
            stream: Return an iterator of the answer's pieces, as they come, instead; closing or dropping it cancels
                the answer.
            **options: Options of transformers' ``generate``, those of
                :class:`~tokenring_xdit.pipelines.text_options.TextOptions`; the default is greedy decoding.
                Also ``seed``, of the sampling; without one a random seed is used, which is in :attr:`reply`.

        Raises:
            TokenRingError: The question was refused.
            CancelledError: It was cancelled.
            EngineError: A rank failed; the message names it, its error and its log.
            KeyboardInterrupt: It was interrupted.
        """
        pending = self.submit(question, **options)
        return pending.pieces() if stream else pending.result().text

    def submit(self, question: str, **options: Any) -> PendingReply:
        """Ask a question as :meth:`ask` does, and return at once.

        Raises:
            ConfigurationError: An option is unknown or out of range, or the question before is not answered yet.
        """
        chosen, seed = checked_question(question, **options)
        with self._asking:
            if self._closed:
                raise ConfigurationError("this chat was closed: begin another one, with chat() of its engine")
            if self._pending is not None and not (self._pending.done or self._pending.cancelled):
                raise ConfigurationError(
                    "this chat is answering a question: wait for that answer, cancel it, or begin another chat"
                )
            answer = functools.partial(self._answer, question, chosen, seed)
            self._pending = PendingReply(self._texts.ranks, answer)
            return self._pending

    def close(self) -> None:
        """Cancel a running answer and free the keys of this chat, without waiting.

        The keys are freed after earlier questions of other chats are answered. May be called again.
        """
        with self._asking:
            if self._closed:
                return
            self._closed = True
        if self._pending is not None:
            self._pending.cancel()
        with contextlib.suppress(ConfigurationError):  # of an engine that was closed, or is another process's
            self._texts.free(self._forget)

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, question: str, options: TextOptions, seed: int, turn: Turn, hear: Hear) -> Reply:
        """What a turn is used for; one that follows finds in the conversation what this one added."""
        asked = ChatMessage("user", question) if len(self._said) > self._given else asked_about(self._context, question)
        said = (*self._said, asked)
        reply = self._texts.answer(turn, self.number, said, options, seed, hear)
        self._said, self.reply = (*said, ChatMessage("assistant", reply.text)), reply
        return reply


def checked_question(question: Any, *, seed: Any = None, **options: Any) -> tuple[TextOptions, int]:
    """Refuse what :meth:`Chat.ask` would refuse before any work; its arguments.

    Returns:
        How the answer is generated, and the seed of the sampling: by default a random one.

    Raises:
        ConfigurationError: The question is none, or an option is unknown or out of range.
    """
    if not isinstance(question, str) or not question.strip():
        raise ConfigurationError(f"question is {shortly(question)}; it has to be a text")
    if seed is not None and (not is_whole(seed) or not 0 <= seed <= LARGEST_SEED):
        raise ConfigurationError(f"seed is {shortly(seed)}; it has to be a whole number from 0 to 2**63 - 1")
    return TextOptions.of(options), secrets.randbelow(DRAWN_SEEDS) if seed is None else seed


def _message(given: Any) -> ChatMessage:
    if not isinstance(given, Mapping) or given.keys() != {"role", "content"} or given["role"] not in ROLES:
        raise ConfigurationError(
            f"a message is {shortly(given)}; it has to be a mapping with a role ({', '.join(ROLES)}) and its content"
        )
    if not isinstance(given["content"], str):
        raise ConfigurationError(f"the content of a message is {shortly(given['content'])}; it has to be a text")
    return ChatMessage(given["role"], given["content"])
