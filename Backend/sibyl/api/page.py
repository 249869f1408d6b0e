"""The web page under ``/``: the built files of frontend/, or a word about how to build them."""

from importlib import resources
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

NO_PAGE = """Sibyl serves its API here, but its page is not built: that needs Node 20 or newer.
Install Node, then run `make page` (or `make run`, which does it) and reload.

The API works without it:
  curl -s -X POST {base}api/questions -H 'content-type: application/json' -d '{{"question": "..."}}'
  curl -N {base}api/tasks/<task_id>/events
Its documentation: {base}docs
"""
_HEADERS = {
    b"content-security-policy": (
        b"default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


class _Page(StaticFiles):
    """Static files with the headers of a page that loads nothing from elsewhere."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                # names with a hash in them may be kept for ever; the page itself is asked for anew
                cache = b"max-age=31536000, immutable" if "/assets/" in scope["path"] else b"no-cache"
                message["headers"] = [*message["headers"], *_HEADERS.items(), (b"cache-control", cache)]
            await send(message)

        await super().__call__(scope, receive, with_headers)


def page_directory() -> Path | None:
    """Return where the built page is, or None."""
    directory = Path(str(resources.files("sibyl"))) / "page"
    return directory if (directory / "index.html").is_file() else None


def mount(app: FastAPI) -> None:
    """Serve the page wherever no route is."""
    directory = page_directory()
    if directory is not None:
        # Not mounted: a mount takes every path, and a route that is asked by another method would never say 405.
        app.router.default = _Page(directory=directory, html=True)
        return

    @app.get("/", include_in_schema=False)
    async def no_page() -> Response:
        return PlainTextResponse(NO_PAGE.format(base="/"))
