"""What clients say to a language model, as OpenAI's clients do."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from tokenring_xdit.messages import named, shown
from tokenring_xdit.pipelines.text_orders import ROLES, ChatMessage
from tokenring_xdit.pipelines.values import LARGEST_SEED
from tokenring_xdit.serve.errors import RefusedError
from tokenring_xdit.serve.schema import Body

__all__ = ["ChatBody", "StreamOptions", "refuse_beyond_neutral", "refuse_beyond_unicode", "said_messages"]

_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}

_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"enum": list(ROLES)},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART, "minItems": 1}]},
    },
    "required": ["role", "content"],
    "additionalProperties": {"type": "null"},
}

_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}


def _neutral(*values: Any) -> Any:
    """A field that clients send with what changes nothing; :func:`refuse_beyond_neutral` refuses all else in it."""
    return Field(None, description="taken where it changes nothing", json_schema_extra={"enum": [*values, None]})


class StreamOptions(Body):
    """Of a stream."""

    include_usage: bool | None = Field(None, description="count tokens in a last chunk")


class ChatBody(Body):
    """Of ``/v1/chat/completions``."""

    messages: Annotated[Any, WithJsonSchema({"type": "array", "items": _MESSAGE, "minItems": 1})] = Field(
        description="the conversation; the last one is the question, of the role 'user'"
    )
    model: str | None = Field(None, description="name of the model, as /v1/models says it")
    max_tokens: int | None = Field(None, ge=1, description="tokens of the answer")
    max_completion_tokens: int | None = Field(None, ge=1, description="the same")
    temperature: float | None = Field(
        None, ge=0, le=2, allow_inf_nan=False, description="above 0: tokens are sampled; 0: greedy decoding"
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="sample from the likeliest tokens with this total probability",
    )
    top_k: int | None = Field(None, ge=1, description="sample from this many of the likeliest tokens")
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False, description="part of the likeliest one's")
    repetition_penalty: float | None = Field(None, gt=0, allow_inf_nan=False, description="above 1 for less of it")
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED, description="seed of the sampling; a random one by default")
    stop: Annotated[Any, WithJsonSchema(_TEXTS)] = Field(
        None, description="up to 4 texts, at the first of which the answer ends"
    )
    n: int | None = Field(None, ge=1, description="answers; only 1")
    stream: bool | None = Field(None, description="server-sent events, as the answer comes")
    stream_options: StreamOptions | None = Field(None, description="of a stream")
    user: str | None = Field(None, max_length=512, description="the user of the client; ignored")
    frequency_penalty: Any = _neutral(0)
    presence_penalty: Any = _neutral(0)
    logit_bias: Any = _neutral({})
    logprobs: Any = _neutral(False)
    top_logprobs: Any = _neutral(0)
    response_format: Any = _neutral({"type": "text"})
    modalities: Any = _neutral(["text"])
    store: Any = _neutral(False)
    metadata: Any = _neutral({})
    service_tier: Any = _neutral("auto", "default")
    tools: Any = _neutral([])
    tool_choice: Any = _neutral("none", "auto")


def refuse_beyond_neutral(body: ChatBody) -> None:
    """Refuse what is taken only where it changes nothing, and would change something.

    Raises:
        RefusedError: There is such a value.
    """
    for name, field in ChatBody.model_fields.items():
        extra, value = field.json_schema_extra, getattr(body, name)
        neutral = extra.get("enum") if isinstance(extra, dict) else None
        if isinstance(neutral, list) and not any(
            value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral
        ):
            known = " or ".join(json.dumps(each) for each in neutral if each is not None)
            raise RefusedError(
                f"{name}: {shown(value)} is not taken here, only {known}, which changes nothing",
                name,
                code="unsupported",
            )


def said_messages(messages: Any) -> tuple[ChatMessage, ...]:
    """A conversation that a client said, whose last message is a question.

    Raises:
        RefusedError: It is none, or has something in it that is not taken.
    """
    if not isinstance(messages, list) or not messages:
        raise RefusedError(f"messages: {shown(messages)} is not a list of at least one message", "messages")
    said = tuple(_message(f"messages.{number}", message) for number, message in enumerate(messages))
    if said[-1].role != "user":
        raise RefusedError(
            f"messages: the last one has the role '{said[-1].role}', and what is answered is one of the role 'user'",
            "messages",
        )
    if not said[-1].content.strip():
        raise RefusedError("messages: the last one is empty", "messages")
    return said


def _message(place: str, message: Any) -> ChatMessage:
    if not isinstance(message, dict):
        raise RefusedError(f"{place}: {shown(message)} is not an object with a role and its content", place)
    for name in ("role", "content"):
        if name not in message:
            raise RefusedError(f"{place}.{name}: is missing", f"{place}.{name}", code="missing_field")
    for name, value in message.items():
        if name not in ("role", "content") and value is not None:  # clients send answers back with all that is null
            field = f"{place}.{named(name)}"
            raise RefusedError(
                f"there is no field '{field}': a message has a role and its content", field, code="unknown_field"
            )
    if message["role"] not in ROLES:
        raise RefusedError(
            f"{place}.role: {shown(message['role'])} is not allowed; it has to be 'system', 'user' or 'assistant'",
            f"{place}.role",
        )
    return ChatMessage(message["role"], _text(f"{place}.content", message["content"]))


def _text(place: str, content: Any) -> str:
    if isinstance(content, str):
        return _unicode(place, content)
    if not isinstance(content, list) or not content:
        raise RefusedError(f"{place}: {shown(content)} is neither text nor a list of parts", place)
    for part in content:
        if not isinstance(part, dict) or part.keys() != {"type", "text"} or part["type"] != "text":
            raise RefusedError(
                f"{place}: {shown(part)} is no part of the type 'text', and this model reads text", place
            )
        if not isinstance(part["text"], str):
            raise RefusedError(f"{place}: {shown(part['text'])} is not text", place)
    return _unicode(place, "".join(part["text"] for part in content))


def _unicode(place: str, text: str) -> str:
    refuse_beyond_unicode(place, text)
    return text


def refuse_beyond_unicode(place: str, text: str) -> None:
    """Refuse a text with half a character.

    Raises:
        RefusedError: It has one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RefusedError(f"{place}: has a character that Unicode does not have", place) from error
