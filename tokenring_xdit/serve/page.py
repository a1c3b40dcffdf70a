"""A page for the browser: files that ask this server what any client asks, and load nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from fastapi import APIRouter
from starlette.responses import Response

__all__ = ["PAGE_PATHS", "page_routes"]

_FOLDER = resources.files("tokenring_xdit.serve") / "assets"

_SCRIPTS = ("api.js", "chat.js", "draw.js", "forms.js", "metrics.js", "page.js", "watch.js")

_FILES = {
    "/": ("page.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    **{f"/page/{name}": (name, "text/javascript") for name in _SCRIPTS},
}

PAGE_PATHS = frozenset(_FILES)
"""What needs no key: it says nothing of the server, and asks for the key itself."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src blob: data:; "
    "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes() -> APIRouter:
    """The routes of all files."""
    routes = APIRouter(include_in_schema=False)
    for path, (name, kind) in _FILES.items():
        routes.add_api_route(path, _file(name, kind), methods=["GET"])
    return routes


def _file(name: str, kind: str) -> Callable[[], Response]:
    content = (_FOLDER / name).read_bytes()

    def answer() -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return answer
