"""``/v1/videos``: videos as jobs, as OpenAI's clients ask for them, and at once for others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from tokenring_xdit.errors import CancelledError
from tokenring_xdit.serve.errors import RefusedError, problem_of
from tokenring_xdit.serve.follow import Feed
from tokenring_xdit.serve.forms import read_fields
from tokenring_xdit.serve.intake import REQUEST_ID, Intake
from tokenring_xdit.serve.jobs import Event, Job, JobStatus, PictureOrder
from tokenring_xdit.serve.parsing import PictureParser
from tokenring_xdit.serve.schema import VideoBody
from tokenring_xdit.serve.stream import failed_answer
from tokenring_xdit.serve.video_store import VideoStore

__all__ = ["KIND", "video_routes"]

KIND = "video"

_POLL = "openai-poll-after-ms"

_SOONEST, _LATEST, _UNKNOWN = 100, 5000, 1000
"""Milliseconds after which a client is asked to look again."""

_STATUS = {JobStatus.QUEUED: "queued", JobStatus.RUNNING: "in_progress", JobStatus.DONE: "completed"}

_MP4 = "video/mp4"

_SCHEMA = VideoBody.model_json_schema()

_SAID = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": _SCHEMA} for kind in ("application/json", "multipart/form-data")},
    }
}


def video_routes(intake: Intake, parser: PictureParser, store: VideoStore) -> APIRouter:
    """The routes.

    Args:
        intake: Takes requests.
        parser: Where they are checked.
        store: Keeps what was made.
    """
    studio = _Studio(intake, parser, store)
    routes = APIRouter(prefix="/v1/videos", tags=["videos"])
    _add_making(routes, studio)
    _add_looking(routes, studio)
    return routes


@dataclass(frozen=True)
class _Studio:
    """What the routes have in common."""

    intake: Intake
    parser: PictureParser
    store: VideoStore

    async def accept(self, request: Request, tell: Callable[[Event], None], *, stored: bool) -> Job:
        """Have a video wait its turn."""
        body = await _body(request, self.intake)
        return await self.intake.accept(KIND, lambda: self.parser.video(body, stored=stored), tell, request)

    def all(self) -> list[Job]:
        """Those that are, or were, kept, the newest last."""
        return [job for job in self.intake.registry.all() if isinstance(job.order, PictureOrder) and job.order.stored]

    def find(self, name: str) -> Job:
        """The video of a name."""
        job = self.intake.find(name)
        if not isinstance(job.order, PictureOrder) or not job.order.stored:
            raise RefusedError("there is no such video", "id", status=404, code="not_found")
        return job

    def answer(self, job: Job) -> Response:
        """How far a video is, and when to ask again."""
        headers = {REQUEST_ID: job.id}
        if not job.status.over:
            headers[_POLL] = str(_poll_after(self.intake.owner.seconds_left(job)))
        return JSONResponse(self.describe(job), headers=headers)

    def describe(self, job: Job) -> dict[str, Any]:
        """A video as OpenAI writes it, with what is more known here."""
        order, done = job.order, job.status is JobStatus.DONE
        assert isinstance(order, PictureOrder)
        kept = self.store.find(job.id) if done else None
        problem = None if job.error is None else problem_of(job.error)
        frames = order.frames if kept is None else kept.frames
        return {
            "id": job.id,
            "object": "video",
            "model": self.parser.config.name,
            "prompt": order.prompt,
            "status": _STATUS.get(job.status, "failed"),
            "progress": 100 if done else min(99, 100 * job.step // order.all_steps),
            "created_at": job.created,
            "completed_at": job.completed if done else None,
            "expires_at": None if kept is None else int(kept.expires),
            "seconds": f"{frames / order.fps:g}",
            "size": order.size,
            "fps": order.fps,
            "frames": frames,
            "seed": order.seed,
            "error": None if problem is None else {"code": problem.code or problem.kind, "message": problem.message},
            "remixed_from_video_id": None,
        }


def _add_making(routes: APIRouter, studio: _Studio) -> None:
    intake, store = studio.intake, studio.store

    @routes.post("", openapi_extra=_SAID)
    async def create(request: Request) -> Response:
        """Have a video made; how far it is, is asked by its name."""
        return studio.answer(await studio.accept(request, _unheard, stored=True))

    @routes.post("/sync", openapi_extra=_SAID, responses={200: {"content": {_MP4: {}}}})
    async def sync(request: Request) -> Response:
        """Make a video, and wait for its file, which is not kept."""
        feed = Feed()
        job = await studio.accept(request, feed.tell, stored=False)
        failed = await failed_answer(intake, job, feed, request)
        return failed or _file(job, job.take()[0])

    @routes.delete("/{name}")
    def delete(name: str) -> dict[str, Any]:
        """Forget a video; one that is not completed is given up."""
        job = studio.find(name)
        intake.owner.cancel(job, CancelledError("the video was deleted"))
        store.remove(name)  # after the job was cancelled, for who writes it looks in the other order
        intake.registry.strike(job)
        return {"id": name, "object": "video.deleted", "deleted": True}


def _add_looking(routes: APIRouter, studio: _Studio) -> None:
    @routes.get("")
    def videos(
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        """The videos that are known, the newest first."""
        known = studio.all()
        ordered = known if order == "asc" else known[::-1]
        names = [job.id for job in ordered]
        if after is not None and after not in names:
            raise RefusedError("after: there is no such video", "after", code="not_found")
        rest = ordered[0 if after is None else names.index(after) + 1 :]
        data = [studio.describe(job) for job in rest[:limit]]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return {"object": "list", "data": data, "has_more": len(rest) > limit, **ends}

    @routes.get("/{name}")
    def video(name: str) -> Response:
        """How far a video is."""
        return studio.answer(studio.find(name))

    @routes.get("/{name}/content", responses={200: {"content": {_MP4: {}}}})
    def content(name: str, variant: Literal["video", "thumbnail", "spritesheet"] = "video") -> Response:
        """The file of a video that is completed."""
        job = studio.find(name)
        if variant != "video":
            raise RefusedError(f"variant: a {variant} is not made here: ask for 'video'", "variant")
        if job.status is not JobStatus.DONE:
            status = studio.describe(job)["status"]
            raise RefusedError(f"the video is {status}, and has no content", "id", code=status)
        return _file(job, studio.store.read(name))


def _file(job: Job, content: bytes | None) -> Response:
    """A video's file.

    Raises:
        RefusedError: It is not there any more.
    """
    if content is None:
        raise RefusedError("the video is not kept any longer: make it again", "id", status=404, code="expired")
    return Response(content, media_type=_MP4, headers={REQUEST_ID: job.id, "X-Seed": str(job.order.seed)})


async def _body(request: Request, intake: Intake) -> VideoBody:
    """What a client says, as JSON or as a form.

    Raises:
        RequestValidationError: It is no such request.
        TokenRingError: It is refused.
    """
    try:
        fields, form = await read_fields(request)
        return VideoBody.model_validate(fields, strict=not form)
    except RefusedError:
        intake.meters.refused(KIND)
        raise
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from error


def _poll_after(left: float | None) -> int:
    return _UNKNOWN if left is None else int(min(_LATEST, max(_SOONEST, 1000 * left)))


def _unheard(event: Event) -> None:
    """Who asks how far a job is need not be told."""
