"""Makes orders of questions to a language model."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import Any

from tokenring_xdit.pipelines.request import DRAWN_SEEDS
from tokenring_xdit.pipelines.text_models import context_length, load_tokenizer
from tokenring_xdit.pipelines.text_options import option_mistakes, overlaid
from tokenring_xdit.pipelines.text_orders import ChatMessage
from tokenring_xdit.pipelines.text_prompt import conversation_tokens
from tokenring_xdit.serve.chat_schema import ChatBody, refuse_beyond_neutral, said_messages
from tokenring_xdit.serve.config import TextServeConfig
from tokenring_xdit.serve.errors import RefusedError
from tokenring_xdit.serve.jobs import TextOrder
from tokenring_xdit.serve.request_parser import RequestParser, first_of

__all__ = ["TextParser"]


@dataclass(frozen=True)
class _Reader:
    """Counts tokens as the ranks will.

    Attributes:
        tokenizer: Tokenizer of the model.
        most: Tokens that it was made to read; ``None`` where it does not say.
    """

    tokenizer: Any
    most: int | None


class TextParser(RequestParser[TextServeConfig]):
    """Where questions are checked; :meth:`load` comes first."""

    _reader: _Reader
    _reading = threading.Lock()  # tokenizers are for one thread at a time

    def load(self) -> None:
        """Load what counts tokens.

        Raises:
            ConfigurationError: It could not be loaded.
        """
        self._reader = _Reader(load_tokenizer(self.config.model), context_length(self.config.model))

    @property
    def most_tokens(self) -> int | None:
        """Of a conversation and its answer together; ``None`` where nobody says."""
        known = [each for each in (self._reader.most, self.limits.tokens) if each is not None]
        return min(known, default=None)

    def described(self) -> dict[str, Any]:
        """As in the base class."""
        options = self.config.answer_options
        ready = hasattr(self, "_reader")
        return {
            "kind": "text",
            "defaults": {"max_tokens": options.max_new_tokens, **_without(self.config.options, "max_new_tokens")},
            "limits": {
                "tokens": self.most_tokens if ready else self.limits.tokens,
                "n": 1,
                "body_bytes": self.limits.body,
                "waiting": self.limits.waiting,
            },
            "ranks": {"tokenring": self.config.degrees.tokenring, "tokens_per_rank": self.config.tokens_per_rank},
        }

    def answer(self, body: ChatBody) -> TextOrder:
        """The order of ``/v1/chat/completions``.

        Raises:
            TokenRingError: It is refused.
        """
        self.refuse_other(body.model)
        if (body.n or 1) > 1:
            raise RefusedError(f"n: {body.n} answers at once are not made here: ask for one after the other", "n")
        if body.stream_options is not None and not body.stream:
            raise RefusedError("stream_options: needs a stream: say stream=true as well", "stream_options")
        refuse_beyond_neutral(body)
        messages = said_messages(body.messages)
        options = self._options(body)
        self.engine()
        with self._reading:
            prompt = len(conversation_tokens(self._reader.tokenizer, messages))
        options["max_new_tokens"] = self._room(prompt, options.get("max_new_tokens"), _answer_length(body))
        return TextOrder(
            kind="text",
            seed=first_of(body.seed, secrets.randbelow(DRAWN_SEEDS)),
            messages=tuple(_plain(message) for message in messages),
            options=options,
            prompt_tokens=prompt,
            answer_tokens=options["max_new_tokens"],
        )

    def _options(self, body: ChatBody) -> dict[str, Any]:
        said: dict[str, Any] = {
            name: getattr(body, name)
            for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop")
        }
        if body.temperature == 0 and body.top_p == 1:  # which changes nothing, and many clients say both
            said["top_p"] = None
        for name, value in said.items():
            for mistake in option_mistakes({name: value}):
                raise RefusedError(mistake, name)
        options = overlaid(self.config.options, said)
        for mistake in option_mistakes(options):
            raise RefusedError(mistake, mistake.partition("=")[0])
        return options

    def _room(self, prompt: int, usual: int | None, said: int | None) -> int:
        """Tokens that the answer may have."""
        most = self.most_tokens
        answer = said or usual or self.config.answer_options.max_new_tokens
        if most is None or prompt + answer <= most:
            return answer
        if said is None and prompt < most:
            return most - prompt
        up_to = f" and up to {answer} of an answer are {prompt + answer}" if said is not None else " leave no answer"
        raise RefusedError(
            f"messages: {prompt} tokens{up_to}, and {most} together are the most that are read here",
            "messages",
            code="context_length_exceeded",
        )


def _answer_length(body: ChatBody) -> int | None:
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise RefusedError(
            f"max_tokens: is {body.max_tokens}, and max_completion_tokens, which is the same, is "
            f"{body.max_completion_tokens}: leave one of them out",
            "max_tokens",
        )
    said = first_of(body.max_completion_tokens, body.max_tokens)
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    for mistake in option_mistakes({"max_new_tokens": said}):
        raise RefusedError(mistake.replace("max_new_tokens", name, 1), name)
    return None if said is None else int(said)


def _plain(message: ChatMessage) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _without(options: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}
