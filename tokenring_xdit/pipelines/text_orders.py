"""What whoever starts ranks for text asks them for, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LoadText", "Question", "Said", "ScoreText", "TextScore"]


@dataclass(frozen=True)
class LoadText:
    """Load a language model, and begin a conversation.

    Attributes:
        model: Folder or hub name, or ``smollm2``.
        dtype: Of its weights.
        context: What the conversation is about; it is read together with the first question.
        limit: Tokens whose keys a rank may hold; ``None`` for any number.
    """

    model: str
    dtype: str
    context: str = ""
    limit: int | None = None


@dataclass(frozen=True)
class Question:
    """Answer a question; what was said before is not computed again.

    Attributes:
        text: The question.
        max_new_tokens: Tokens that the answer may have.
        temperature: Above 0: draw tokens instead of taking the likeliest.
        seed: Of what is drawn.
        stream: Whether the first rank tells each piece of the answer as it comes.
    """

    text: str
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stream: bool = True


@dataclass(frozen=True)
class Said:
    """What a rank says to a question.

    Attributes:
        text: The answer.
        prompt_tokens: Tokens of the conversation before it.
        reused: How many of them had been computed before.
        new_tokens: Tokens of the answer.
        tokens: Those tokens, as numbers of the model's vocabulary.
        keys: Tokens whose keys this rank holds, in the layer where they are most.
        seconds: What it took.
    """

    text: str
    prompt_tokens: int
    reused: int
    new_tokens: int
    tokens: tuple[int, ...]
    keys: int
    seconds: float


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
        tokens: Of the text.
        log_probability: Natural logarithm: the sum of those of all tokens but the first, each after those before it.
        bytes_sent: What this rank sent for attention.
        seconds: What it took.
    """

    tokens: int
    log_probability: float
    bytes_sent: int
    seconds: float
