"""The HTTP application."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tokenring_xdit import __version__
from tokenring_xdit.errors import CancelledError, TokenRingError, nearest
from tokenring_xdit.messages import named, shown
from tokenring_xdit.serve.answers import answered
from tokenring_xdit.serve.chat import chat_routes
from tokenring_xdit.serve.chat_schema import ChatBody
from tokenring_xdit.serve.engine_owner import ServiceState
from tokenring_xdit.serve.errors import RefusedError
from tokenring_xdit.serve.guard import OPEN, Guard
from tokenring_xdit.serve.images import EDITS, image_routes
from tokenring_xdit.serve.intake import Intake
from tokenring_xdit.serve.page import PAGE_PATHS, page_routes
from tokenring_xdit.serve.parsing import PictureParser
from tokenring_xdit.serve.schema import Body, EditBody, GenerationBody, VideoBody, refused
from tokenring_xdit.serve.text_parsing import TextParser
from tokenring_xdit.serve.video_store import VideoStore
from tokenring_xdit.serve.videos import KIND, video_routes

__all__ = ["application"]

log = logging.getLogger(__name__)

_BODIES: Mapping[str, tuple[str, type[Body]]] = {
    "/v1/images/generations": ("image", GenerationBody),
    EDITS: ("image", EditBody),
    "/v1/videos": (KIND, VideoBody),
    "/v1/videos/sync": (KIND, VideoBody),
    "/v1/chat/completions": ("text", ChatBody),
}
"""Paths that make something of a body: what that is, and what stands in it."""

_UNREADY: dict[int | str, dict[str, Any]] = {503: {"description": "Unavailable, with the reason"}}

_PLAIN = "text/plain; version=0.0.4; charset=utf-8"


def application(
    intake: Intake, key: str | None, store: VideoStore | None = None, *, page: bool = False, host: str | None = None
) -> FastAPI:
    """All routes of a server.

    Args:
        intake: Takes requests.
        key: What clients have to say; ``None`` where they need not.
        store: Where videos are kept, for a model that makes them.
        page: Whether there is a page for the browser.
        host: Name of the server, by which it is asked where there is no key, beside its addresses.
    """

    async def refuse_unknown_words(request: Request) -> None:
        """Refuse what stands behind ``?`` and has no effect."""
        try:
            _refuse_unknown_words(request)
        except RefusedError:
            _count_refused(intake, request.method, request.url.path)
            raise

    app = FastAPI(
        title="tokenring-xdit",
        version=__version__,
        description="A model, by OpenAI's protocol.",
        redirect_slashes=False,
        dependencies=[Depends(refuse_unknown_words)],
    )
    app.include_router(_health(intake))
    app.include_router(_requests(intake))
    if isinstance(intake.parser, PictureParser) and store is not None:
        app.include_router(video_routes(intake, intake.parser, store))
    elif isinstance(intake.parser, PictureParser):
        app.include_router(image_routes(intake, intake.parser))
    if isinstance(intake.parser, TextParser):
        app.include_router(chat_routes(intake, intake.parser))
    if page:
        app.include_router(page_routes())
    limits = intake.parser.limits
    app.add_middleware(
        Guard,
        key=key,
        most=limits.body,
        more={EDITS: max(limits.upload, limits.body)},
        open_paths=OPEN | PAGE_PATHS if page else OPEN,
        host=host,
        on_refused=lambda method, path: _count_refused(intake, method, path),
    )
    _answer_errors(app, intake)
    app.openapi = lambda: _described(app)
    return app


def _health(intake: Intake) -> APIRouter:
    routes, owner = APIRouter(tags=["server"]), intake.owner

    @routes.get("/live")
    async def live() -> dict[str, str]:
        """Whether the server answers at all."""
        return {"status": "live"}

    @routes.get("/health", responses=_UNREADY)
    @routes.get("/ready", responses=_UNREADY)
    async def ready() -> JSONResponse:
        """Whether requests are served now, and else why not."""
        if owner.state is ServiceState.READY:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": owner.state.value, "reason": owner.reason}, 503)

    @routes.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(intake.meters.text(), media_type=_PLAIN)

    @routes.get("/v1/models")
    def models() -> dict[str, Any]:
        """The model, with what it takes where a request says nothing, and limits."""
        return {"object": "list", "data": [_model(intake)]}

    @routes.get("/v1/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        """One model."""
        if name != intake.parser.config.name:
            message = f"there is no {shown(name)} here, only '{intake.parser.config.name}'"
            raise RefusedError(message, "model", status=404, code="model_not_found")
        return _model(intake)

    return routes


def _model(intake: Intake) -> dict[str, Any]:
    described = intake.parser.described()
    return {
        "id": intake.parser.config.name,
        "object": "model",
        "created": intake.started,
        "owned_by": "tokenring-xdit",
        **described,
    }


def _requests(intake: Intake) -> APIRouter:
    routes = APIRouter(prefix="/v1/requests", tags=["requests"])

    @routes.get("")
    def requests(limit: Annotated[int | None, Query(ge=1)] = None) -> dict[str, Any]:
        """Requests under way, and the last ones that are over, the newest last; with a limit the newest only."""
        jobs = intake.registry.all()
        return {"object": "list", "data": [intake.described(job) for job in jobs[-(limit or len(jobs)) :]]}

    @routes.get("/{name}")
    def request(name: str) -> dict[str, Any]:
        """How far a request is."""
        return intake.described(intake.find(name))

    @routes.delete("/{name}")
    def cancel(name: str) -> dict[str, Any]:
        """Give a request up: at once where it waits, at its next step where it is served."""
        job = intake.find(name)
        intake.owner.cancel(job, CancelledError("the request was cancelled"))
        return intake.described(job)

    return routes


def _refuse_unknown_words(request: Request) -> None:
    if not request.url.path.startswith("/v1/"):  # whoever watches may say more
        return
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            said = f"there is no parameter '{named(name)}' here"
            hint = f". {nearest(named(name), known)}" if known else ": fields stand in the body"
            raise RefusedError(said + hint * bool(known or request.method == "POST"), named(name), code="unknown_field")
        if len(request.query_params.getlist(name)) > 1:
            raise RefusedError(f"{name}: is said twice", name)


def _count_refused(intake: Intake, method: str, path: str) -> None:
    if method == "POST" and path in _BODIES:
        intake.meters.refused(_BODIES[path][0])


def _answer_errors(app: FastAPI, intake: Intake) -> None:
    async def answer(request: Request, error: Exception, headers: Mapping[str, str] | None = None) -> Response:
        return answered(error, headers)

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        _, body = _BODIES.get(request.url.path, (None, Body))
        _count_refused(intake, request.method, request.url.path)
        return await answer(request, refused(error.errors(), tuple(body.model_fields)))

    async def other(request: Request, error: HTTPException) -> Response:
        status = error.status_code
        if status == 400:  # a body that could not be decoded
            _count_refused(intake, request.method, request.url.path)
        kind = _BODIES.get(request.url.path, ("",))[0]
        instead = f", as '{intake.parser.config.name}' makes no {kind}s: /docs lists what can be asked" if kind else ""
        words = {404: f"there is no such path here{instead}", 405: f"{request.method} is not for this path"}
        default = "the body has to be a JSON object, with 'Content-Type: application/json'"
        text = words.get(status, default if status == 400 else str(error.detail))
        return await answer(request, RefusedError(text, status=status), error.headers)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, other)
    app.add_exception_handler(TokenRingError, answer)
    app.add_exception_handler(Exception, answer)


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI page, in which whatever goes wrong is what it is here: OpenAI's error object."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=inspect.cleandoc(app.description), routes=app.routes
        )
        error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "object"}}}
        content = {"application/json": {"schema": error}}
        for path in schema["paths"].values():
            for operation in path.values():
                said = operation["responses"]
                if said.pop("422", None) is not None:
                    said["400"] = {"description": "Refused, with the reason", "content": content}
                said["default"] = {"description": "Any other failure, with the reason", "content": content}
        app.openapi_schema = schema
    return app.openapi_schema
