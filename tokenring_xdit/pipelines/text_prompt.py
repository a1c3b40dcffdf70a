"""A conversation as the tokens that a model was taught to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.messages import one_line
from tokenring_xdit.pipelines.text_orders import ChatMessage

__all__ = ["conversation_tokens"]


def conversation_tokens(tokenizer: Any, messages: Sequence[ChatMessage]) -> list[int]:
    """The tokens before an answer.

    Args:
        tokenizer: Tokenizer of transformers; without a chat template the messages are lines of a text.
        messages: All that was said.

    Raises:
        ConfigurationError: The model's chat template refuses them.
    """
    if tokenizer.chat_template is None:
        return _numbers(tokenizer, "\n".join(message.content for message in messages) + "\n", special=True)
    said = [{"role": message.role, "content": message.content} for message in messages]
    try:
        text = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # what a template raises is what it refuses: a system message, say
        raise ConfigurationError(
            f"the chat template of this model does not take this conversation: {one_line(str(error))}"
        ) from error
    return _numbers(tokenizer, text, special=False)


def _numbers(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special).input_ids)
