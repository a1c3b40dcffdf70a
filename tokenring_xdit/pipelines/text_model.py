"""A language model on one rank: it answers in several conversations, and keeps the keys of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import StoppingCriteriaList

from tokenring_xdit.compat.transformers import cache_name
from tokenring_xdit.errors import CancelledError, UnsupportedError
from tokenring_xdit.hosts.transformers import ShardedCache, parallelize
from tokenring_xdit.pipelines.request_meter import RequestMeter
from tokenring_xdit.pipelines.text_models import length_of, load_text_model
from tokenring_xdit.pipelines.text_orders import LoadText, Question, Said, TextScore
from tokenring_xdit.pipelines.text_pieces import Listener, PieceDecoder, StopSeeker, decoded
from tokenring_xdit.pipelines.text_prompt import conversation_tokens
from tokenring_xdit.workers.messages import Phase

__all__ = ["TextModel"]


@dataclass
class _Conversation:
    """What was computed of a conversation: tokens ``[1, S]``, and their keys."""

    cache: ShardedCache
    tokens: Tensor = field(default_factory=lambda: torch.empty(1, 0, dtype=torch.long))

    def reuse(self, ids: Tensor) -> int:
        """Leave in the cache what is the beginning of ``ids`` ``[1, S]``; returns how many tokens that is."""
        length = min(ids.shape[1] - 1, self.tokens.shape[1])
        differing = (ids[0, :length] != self.tokens[0, :length]).nonzero()
        reused = int(differing[0]) if len(differing) else length
        if reused and self.cache.can_be_cropped(reused):
            self.cache.crop(reused - self.cache.length)
        else:
            self.cache.reset()
            reused = 0
        self.tokens = self.tokens[:, :reused]
        self.cache.returns_to = ids.shape[1]  # an answer that reads otherwise is cropped off, at the latest next time
        return reused


class TextModel:
    """A model that all ranks have loaded; its methods are called on all of them together.

    Args:
        order: The model, and what it may keep.
        device: This rank's.

    Attributes:
        phase: How far this rank is with what it was asked last.
    """

    def __init__(self, order: LoadText, device: torch.device) -> None:
        self._tokenizer, model = load_text_model(order.model, order.dtype)
        self._model = parallelize(model.to(device), tokenring_degree=dist.get_world_size())
        self._device, self._limit, self._chats = device, order.limit, order.chats
        self._context_length = length_of(model.config)
        self._conversations: dict[int, _Conversation] = {}  # the one that was asked last is the last
        self._meter = RequestMeter(device, dist.get_world_size())
        self.phase = Phase.BEFORE

    @property
    def kept(self) -> dict[int, int]:
        """By chat, how many tokens' keys all ranks hold together."""
        return {chat: conversation.cache.length for chat, conversation in self._conversations.items()}

    def forget(self, chats: Sequence[int]) -> None:
        """Free the keys of chats."""
        for chat in chats:
            conversation = self._conversations.pop(chat, None)
            if conversation is not None:
                conversation.cache.reset()  # now, whatever else refers to it

    def answer(self, question: Question, tell: Callable[[str], bool] | None = None) -> Said:
        """Answer a question.

        Args:
            question: The question.
            tell: On the first rank: called with each piece of the answer as it comes, and with empty ones between;
                returns whether to end.

        Raises:
            CancelledError: ``tell`` said to end while the prompt was read; on all ranks.
            ConfigurationError: The model's chat template refuses the conversation.
            UnsupportedError: A rank would have to hold more keys than it may.
        """
        start = time.perf_counter()
        self._meter.begin()
        self.phase = Phase.BEFORE
        self.forget(question.forget)
        ids = torch.tensor([conversation_tokens(self._tokenizer, question.messages)])
        conversation = self._conversations.get(question.chat) or _Conversation(self._model.tokenring.cache())
        reused = conversation.reuse(ids)
        self._make_room(question.chat, conversation.cache, ids.shape[1], question.options.max_new_tokens)
        self._conversations.pop(question.chat, None)
        self._conversations[question.chat] = conversation  # the last one, and only now that it was not refused
        self.phase = Phase.STEPS
        self._meter.look()
        try:
            whole = self._generate(ids, conversation.cache, question, tell)
        except CancelledError:  # on all ranks, with the keys that there were before
            raise
        except BaseException:
            self.forget([question.chat])
            raise
        self.phase = Phase.AFTER
        self._meter.look()
        conversation.tokens = whole[:, : conversation.cache.length]
        said = whole[0, ids.shape[1] :].tolist()
        seeker = StopSeeker(question.options.stop)
        text = seeker.cut(self._decoded(said))
        return Said(
            text=text,
            prompt_tokens=ids.shape[1],
            reused=reused,
            tokens=tuple(said),
            ended=seeker.found or said[-1] in self._ends(),
            keys=max(conversation.cache.held()),
            kept=self.kept,
            seconds=time.perf_counter() - start,
            context_length=self._context_length,
            figures=self._meter.end(),
        )

    def score(self, text: str) -> TextScore:
        """Say how likely a text is; conversations stay as they are."""
        start = time.perf_counter()
        sent = self._model.tokenring.report()["bytes_sent"]
        ids = self._tokenizer(text, return_tensors="pt").input_ids.to(self._device)
        found = float(self._model.tokenring.score(ids).double().sum())
        sent = self._model.tokenring.report()["bytes_sent"] - sent
        return TextScore(ids.shape[1], found, sent, time.perf_counter() - start, self._context_length)

    def _generate(
        self, ids: Tensor, cache: ShardedCache, question: Question, tell: Callable[[str], bool] | None
    ) -> Tensor:
        """The prompt and the answer, ``[1, S]``."""
        torch.manual_seed(question.seed)
        arguments = question.options.arguments()
        decoder, stops = PieceDecoder(self._tokenizer), question.options.stop
        listener = Listener(decoder, ids.shape[1], tell or (lambda piece: False), stops)
        if tell is not None or stops:
            arguments["stopping_criteria"] = StoppingCriteriaList([listener])
        pad = self._tokenizer.pad_token_id
        with self._model.tokenring.giving_up(lambda: tell is not None and tell("")):
            whole: Tensor = self._model.generate(
                ids.to(self._device),
                attention_mask=torch.ones_like(ids).to(self._device),
                pad_token_id=self._tokenizer.eos_token_id if pad is None else pad,
                **{cache_name(type(self._model).forward): cache},
                **arguments,
            ).cpu()
        if tell is not None:
            tell(listener.rest(self._decoded(whole[0, ids.shape[1] :].tolist())))
        return whole

    def _decoded(self, tokens: list[int]) -> str:
        return decoded(self._tokenizer, tokens)

    def _ends(self) -> list[int]:
        """Tokens with which the model ends an answer."""
        ends = self._model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [] if ends is None else [ends]

    def _make_room(self, chat: int, cache: ShardedCache, prompt: int, answer: int) -> None:
        """Free the keys of chats that were asked longest ago, until this one has room; alike on all ranks.

        Raises:
            UnsupportedError: It has too many tokens by itself; nothing was freed then.
        """
        held = _held(cache, prompt, answer)
        if self._limit is not None and max(held) > self._limit:
            raise UnsupportedError(
                f"{prompt} tokens, and up to {answer} of an answer, put keys of {max(held)} tokens on a rank, where "
                f"{self._limit} are allowed: use more ranks than {len(held)}"
            )
        others = {each: kept.cache.placement for each, kept in self._conversations.items() if each != chat}
        while others:
            most = max(own + sum(p.count(rank) for p in others.values()) for rank, own in enumerate(held))
            if len(others) < self._chats and (self._limit is None or most <= self._limit):
                return
            oldest = next(iter(others))
            del others[oldest]
            self.forget([oldest])


def _held(cache: ShardedCache, prompt: int, answer: int) -> list[int]:
    """Tokens of a conversation whose keys each rank will hold."""
    placement = cache.placement.plus(cache.spread(prompt - cache.length)[0])
    placement = placement.plus(placement.deal(answer))
    return [placement.count(rank) for rank in range(placement.ranks)]
