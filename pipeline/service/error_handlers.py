"""Error handlers of the HTTP application: every error becomes problem details."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from acestep.errors import RestyleError
from pipeline.service.problem_details import ProblemError, of_error, retry_after, storage_failure
from pipeline.service.request_body import NAMES

log = logging.getLogger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Register the handlers of ``RestyleError``, storage failures, HTTP errors, and unexpected exceptions."""

    @app.exception_handler(RestyleError)
    async def refused(request: Request, error: RestyleError) -> JSONResponse:
        problem = of_error(error, getattr(request.state, "given", {}), NAMES)
        headers = retry_after(problem)
        headers |= {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
        # Without this, the server would read the rest of a rejected body to its end.
        headers |= {"Connection": "close"} if problem.status in (413, 507) else {}
        return JSONResponse(problem.as_json(), problem.status, headers)

    @app.exception_handler(OSError)
    async def storage_failed(request: Request, error: OSError) -> JSONResponse:
        log.error("storage failed: %s", error)
        return await refused(request, storage_failure(error))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises the error again after the reply, which logs it.
        problem = ProblemError("internal_error", "the service failed")
        return JSONResponse(problem.as_json(), 500)

    @app.exception_handler(HTTPException)
    async def not_routed(request: Request, error: HTTPException) -> JSONResponse:
        kind = {404: "unknown_address", 405: "unknown_method"}.get(error.status_code, "refused")
        problem = ProblemError(kind, str(error.detail), status=error.status_code)
        return JSONResponse(problem.as_json(), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = str(first["loc"][-1])
        problem = ProblemError("invalid_value", first["msg"], "see /openapi.json", field)
        return JSONResponse(problem.as_json(), 422)
