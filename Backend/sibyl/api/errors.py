"""Errors as responses: one table from what went wrong to status, code and words. No detail of ours ever leaves."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from sibyl.core import errors as core_errors
from sibyl.core.errors import SibylError, code_of
from sibyl.wire.tasks import VISIBLE

logger = logging.getLogger(__name__)

_HTTP = {
    400: ("malformed_body", "The body is not valid JSON in UTF-8."),
    404: ("not_found", "There is nothing here. See /docs for what there is."),
    405: ("method_not_allowed", "This method is not allowed here. See /docs."),
    408: ("request_timeout", "The body did not arrive in time."),
    413: ("body_too_large", "The body is too large."),
    415: ("unsupported_media_type", "Send the body as application/json."),
}
_STATUS = {
    code_of(kind): kind.status
    for kind in vars(core_errors).values()
    if isinstance(kind, type) and issubclass(kind, SibylError)
}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_WORDS = {VISIBLE: "Input should hold at least one visible character"}
DETAILS = 20  # most details in one error


def error_response(
    status: int, code: str, message: str, headers: dict[str, str] | None = None, **more: Any
) -> JSONResponse:
    """Return an error as every route shows it."""
    return JSONResponse({"error": {"code": code, "message": message, **more}}, status, headers)


def http_error(status: int, message: str | None = None) -> JSONResponse:
    """Return one of HTTP's own errors."""
    code, words = _HTTP.get(status, ("http_error", "The request cannot be answered."))
    return error_response(status, code, message or words)


def status_of(code: str) -> int:
    """Return the status for the code of an error that ended a task; 500 for those that have none of their own."""
    return _STATUS.get(code, 500)


def _sibyl_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SibylError)
    if error.status == 500:
        logger.error("Request failed: %s", error.code, extra={"action": "request_failed"})
        return error_response(500, "internal_error", "The request failed. The server's log has the details.")
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return error_response(error.status, error.code, error.message, headers)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    response = http_error(error.status_code)
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        response.headers["Allow"] = ", ".join(_allowed(request)) or response.headers.get("Allow", "")
    return response


def _allowed(request: Request) -> list[str]:
    """Return all methods of a path. The router knows only those of the first route that has it."""
    scope = {
        "type": "http",
        "path": request.scope["path"],
        "root_path": request.scope.get("root_path", ""),
        "headers": [],
    }
    return [
        method
        for method in _METHODS
        if any(route.matches(scope | {"method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if any(item["type"] == "json_invalid" for item in error.errors()):
        return http_error(400)
    details = [
        {
            "loc": [part if isinstance(part, int) else str(part)[:100] for part in item["loc"]],
            "message": _WORDS.get(item.get("ctx", {}).get("pattern", ""), item["msg"]),
        }
        for item in error.errors()[:DETAILS]
    ]
    where = ".".join(map(str, details[0]["loc"])) if details else "request"
    message = f"{where}: {details[0]['message']}" if details else "The request is not valid."
    return error_response(422, "invalid_request", message, details=jsonable_encoder(details))


def _unexpected(_: Request, error: Exception) -> JSONResponse:
    # The traceback is logged by the server; the message may quote what a user wrote, so it is shown to nobody.
    return error_response(500, "internal_error", "The request failed. The server's log has the details.")


def install(app: FastAPI) -> None:
    """Have all errors of ``app`` shown in this way."""
    app.add_exception_handler(SibylError, _sibyl_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)
