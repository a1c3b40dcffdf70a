"""``/v1/chat/completions``: answers of a language model, as OpenAI's clients ask for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from tokenring_xdit.pipelines.pending import Reply
from tokenring_xdit.serve.chat_schema import ChatBody
from tokenring_xdit.serve.errors import problem_of
from tokenring_xdit.serve.follow import Feed
from tokenring_xdit.serve.intake import REQUEST_ID, Intake
from tokenring_xdit.serve.jobs import Event, Job, Spoke
from tokenring_xdit.serve.stream import EventStream, event, failed_answer
from tokenring_xdit.serve.text_parsing import TextParser

__all__ = ["chat_routes"]

_LAST = "data: [DONE]\n\n"


def chat_routes(intake: Intake, parser: TextParser) -> APIRouter:
    """The routes.

    Args:
        intake: Takes requests.
        parser: Where they are checked.
    """
    routes = APIRouter(tags=["chat"])

    @routes.post("/v1/chat/completions", responses={200: {"content": {"text/event-stream": {}}}})
    async def completions(body: ChatBody, request: Request) -> Response:
        """Answer the last message of a conversation, as a whole or as a stream."""
        feed = Feed()
        job = await intake.accept("text", lambda: parser.answer(body), feed.tell, request)
        writer = _Writer(job, parser.config.name)
        if body.stream:
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            return EventStream(intake, job, feed, lambda events: writer.chunks(events, usage))
        failed = await failed_answer(intake, job, feed, request)
        return failed or JSONResponse(writer.whole(), headers={REQUEST_ID: job.id})

    return routes


@dataclass(frozen=True)
class _Writer:
    """Writes what OpenAI's clients read."""

    job: Job
    model: str

    def whole(self) -> dict[str, Any]:
        """An answer that is over."""
        (reply,) = self.job.take()
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _end(reply)}
        return {**self._head("chat.completion"), "choices": [choice], "usage": _usage(reply), "seed": reply.seed}

    async def chunks(self, events: AsyncIterator[Event | None], usage: bool) -> AsyncIterator[str]:
        """An answer as it comes; with the usage at its end, where that is wanted."""
        unknown: dict[str, Any] = {"usage": None} if usage else {}
        yield self._chunk({"role": "assistant", "content": ""}, **unknown)
        async for each in events:
            if each is None:
                yield ""
            elif isinstance(each, Spoke):
                yield self._chunk({"content": each.text}, **unknown)
        if self.job.error is not None:
            yield event(problem_of(self.job.error).body)
            return
        (reply,) = self.job.take()
        yield self._chunk({}, _end(reply), seed=reply.seed, **unknown)
        if usage:
            yield event({**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(reply)})
        yield _LAST

    def _chunk(self, delta: dict[str, Any], end: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}
        return event({**self._head("chat.completion.chunk"), "choices": [choice], **more})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.job.id, "object": kind, "created": self.job.created, "model": self.model}


def _end(reply: Reply) -> str:
    return "stop" if reply.ended else "length"


def _usage(reply: Reply) -> dict[str, Any]:
    said = len(reply.tokens)
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": said,
        "total_tokens": reply.prompt_tokens + said,
        "prompt_tokens_details": {"cached_tokens": reply.reused_tokens},
    }
