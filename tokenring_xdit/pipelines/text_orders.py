"""What whoever starts ranks for text asks them for, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenring_xdit.defaults import KEPT_CHATS
from tokenring_xdit.pipelines.messages import MemoryUse, RankFigures
from tokenring_xdit.pipelines.text_options import TextOptions

__all__ = [
    "MESSAGES",
    "ROLES",
    "ChatMessage",
    "Forget",
    "Kept",
    "LoadText",
    "Question",
    "Said",
    "ScoreText",
    "TextScore",
    "asked_about",
]


ROLES = ("system", "user", "assistant")
"""Who may have said something in a conversation."""


@dataclass(frozen=True)
class ChatMessage:
    """What was said in a conversation.

    Attributes:
        role: Who said it: ``system``, ``user`` or ``assistant``.
        content: What.
    """

    role: str
    content: str


def asked_about(context: str, question: str) -> ChatMessage:
    """The first question of a conversation, with the text that it is about."""
    return ChatMessage("user", f"{context}\n\n{question}" if context else question)


@dataclass(frozen=True)
class LoadText:
    """Load a language model.

    Attributes:
        model: Folder or hub name, or ``smollm2``.
        dtype: Dtype of its weights.
        timeout: Seconds after which ranks give up waiting for each other.
        limit: Tokens whose keys a rank may hold, of all chats together; ``None`` for any number.
        chats: How many chats' keys are kept.
    """

    model: str
    dtype: str
    timeout: float = 3600.0
    limit: int | None = None
    chats: int = KEPT_CHATS


@dataclass(frozen=True)
class Question:
    """Say what comes next in a conversation; what of it was computed for its chat before is not computed again.

    Attributes:
        chat: Number of the chat, under which keys are kept.
        messages: All that was said, the question last.
        options: How the answer is generated.
        seed: Seed of the sampling.
        forget: Chats whose keys are kept no longer.
    """

    chat: int
    messages: tuple[ChatMessage, ...]
    options: TextOptions = field(default_factory=TextOptions)
    seed: int = 0
    forget: tuple[int, ...] = ()


@dataclass(frozen=True)
class Said:
    """What a rank says to a question.

    Attributes:
        text: The answer.
        prompt_tokens: Tokens of the conversation before it.
        reused: How many of them had been computed before.
        tokens: Those of the answer, as numbers of the model's vocabulary.
        ended: Whether the model ended the answer, or one of its stops came; ``False`` where it had as many tokens as
            allowed.
        keys: Tokens of this chat whose keys this rank holds, in the layer where they are most.
        kept: By chat, how many tokens' keys all ranks hold together.
        seconds: How long it took.
        context_length: Tokens that the model was made to read, prompt and answer together; ``None`` if it does not say.
        figures: What it took of this rank.
    """

    text: str
    prompt_tokens: int
    reused: int
    tokens: tuple[int, ...]
    ended: bool
    keys: int
    kept: Mapping[int, int]
    seconds: float
    context_length: int | None = None
    figures: RankFigures = field(default_factory=RankFigures)


@dataclass(frozen=True)
class Forget:
    """Keep the keys of chats no longer.

    Attributes:
        chats: Their numbers.
    """

    chats: tuple[int, ...]


@dataclass(frozen=True)
class Kept:
    """What is kept after that: by chat, how many tokens' keys all ranks hold together."""

    tokens: Mapping[int, int]


@dataclass(frozen=True)
class ScoreText:
    """Say how likely the model that was loaded finds a text.

    Attributes:
        text: The text.
    """

    text: str


@dataclass(frozen=True)
class TextScore:
    """How likely a model finds a text.

    Attributes:
        tokens: Tokens of the text.
        log_probability: Natural logarithm: the sum of those of all tokens but the first, each after those before it.
        bytes_sent: What this rank sent for attention.
        seconds: What it took.
        context_length: As in :class:`Said`.
    """

    tokens: int
    log_probability: float
    bytes_sent: int
    seconds: float
    context_length: int | None = None


MESSAGES = (
    ChatMessage,
    Forget,
    Kept,
    LoadText,
    MemoryUse,
    Question,
    RankFigures,
    Said,
    ScoreText,
    TextOptions,
    TextScore,
)
"""What may be in messages to and from ranks on other nodes; see :class:`tokenring_xdit.workers.wire.Wire`."""
