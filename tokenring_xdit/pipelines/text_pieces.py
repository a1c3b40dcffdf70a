"""An answer piece by piece, while its tokens come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

__all__ = ["Listener", "PieceDecoder", "StopSeeker", "decoded"]

_INCOMPLETE = "\ufffd"
"""What a decoder writes for bytes that are no whole character yet."""


def decoded(tokenizer: Any, tokens: list[int]) -> str:
    """Tokens as text, with the spaces that they have: cleaned up, a text is not that of its pieces, nor of its tokens.

    Args:
        tokenizer: Tokenizer of transformers.
        tokens: Numbers of its vocabulary.
    """
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class PieceDecoder:
    """Turns tokens into pieces of text that end where a character does; all pieces together are the whole text.

    Tokens are decoded together with those of the piece before, as a tokenizer may write a token differently at the
    beginning of a text.

    Args:
        tokenizer: Tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._before = self._told = 0  # where the last piece began, and where it ended
        self._characters = 0

    def add(self, tokens: list[int]) -> str:
        """The text that further tokens complete; empty where they complete none."""
        self._tokens += tokens
        before, now = (
            self._decoded(self._tokens[self._before : self._told]),
            self._decoded(self._tokens[self._before :]),
        )
        if len(now) <= len(before) or now.endswith(_INCOMPLETE):
            return ""
        self._before, self._told = self._told, len(self._tokens)
        self._characters += len(now) - len(before)
        return now[len(before) :]

    def rest(self, whole: str) -> str:
        """What is left of the whole text, where its end is no whole character."""
        return whole[self._characters :]

    def _decoded(self, tokens: list[int]) -> str:
        return decoded(self._tokenizer, tokens)


class StopSeeker:
    """Looks for texts that end an answer while it comes, and holds back what may be the beginning of one.

    Args:
        stops: The texts; without any nothing is held back.

    Attributes:
        found: Whether one has come.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = stops, ""
        self.found = False

    def add(self, piece: str) -> str:
        """What may be told once a further piece has come."""
        text = self.cut(self._held + piece)
        kept = 0 if self.found else max((_beginning(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def end(self, rest: str) -> str:
        """What is left to tell when nothing follows but the rest."""
        return self.cut(self._held + rest)

    def cut(self, text: str) -> str:
        """A text before the first stop in it; nothing where one has come already."""
        if self.found:
            return ""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        self.found = bool(places)
        return text[: min(places)] if places else text


def _beginning(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of a stop."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class Listener(StoppingCriteria):  # type: ignore[misc]
    """Tells each piece of an answer, and ends ``generate`` when told to; its answers are those of one text.

    Args:
        decoder: Makes pieces of tokens.
        prompt: Tokens before the answer.
        tell: Called after each step of ``generate`` with the next piece, which may be empty; returns whether to end.
        stops: Texts that end the answer, which are not told.
    """

    def __init__(
        self, decoder: PieceDecoder, prompt: int, tell: Callable[[str], bool], stops: Sequence[str] = ()
    ) -> None:
        self._decoder, self._heard, self._tell = decoder, prompt, tell
        self._seeker = StopSeeker(stops)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Look at the sequence ``[1, S]`` so far; whether it is over, ``[1]``."""
        tokens = input_ids[0, self._heard :].tolist()
        self._heard += len(tokens)
        over = self._tell(self._seeker.add(self._decoder.add(tokens))) or self._seeker.found
        return torch.full((1,), over, dtype=torch.bool, device=input_ids.device)

    def rest(self, whole: str) -> str:
        """What was not told yet of an answer, given all of its text."""
        return self._seeker.end(self._decoder.rest(whole))
