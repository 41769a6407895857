"""`/docs` and `/openapi.json`, with nothing fetched from anywhere else."""

from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

_STATIC = "/static"
# The badge of Swagger UI would send the document to a validator on the internet.
_PARAMETERS = {"validatorUrl": None, "tryItOutEnabled": True, "displayRequestDuration": True}
_UNAUTHORIZED = "401"
_API_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "Needed where the operator configured API_KEYS; also as the header `X-API-Key`.",
}
# The page has a script and styles in itself.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'"
)

_PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "Problem details (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "reference"],
    "properties": {
        "type": {"type": "string", "description": "The kind of problem; the path explains it."},
        "title": {"type": "string", "description": "The kind of problem in a sentence."},
        "status": {"type": "integer", "description": "The status of the answer."},
        "detail": {"type": "string", "description": "What happened in this case."},
        "errors": {
            "type": "array",
            "description": "What is wrong with which field; never what was sent.",
            "items": {
                "type": "object",
                "required": ["in", "message"],
                "properties": {
                    "in": {"type": "string", "examples": ["body", "query", "path"]},
                    "field": {"type": "string", "examples": ["user_name"]},
                    "message": {"type": "string"},
                },
            },
        },
        "reference": {
            "type": "string",
            "description": "The request's id, as in the header X-Request-Id and the log.",
        },
    },
}


def install(app: FastAPI) -> None:
    """Serve the documentation of `app`, which must have no `docs_url` of its own."""
    app.mount(_STATIC, StaticFiles(directory=str(files("fastapi_offline") / "static")), name="static")
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        """The framework's document, completed with the problems that all routes refer to."""
        document = describe()
        components = document.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = _PROBLEM
        components["securitySchemes"] = {"apiKey": _API_KEY}
        for path in document["paths"].values():
            for operation in path.values():
                if _UNAUTHORIZED in operation["responses"]:
                    operation["security"] = [{}, {"apiKey": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the framework's own way to extend it

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        page = get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}{_STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_STATIC}/favicon.png",
            swagger_ui_parameters=_PARAMETERS,
        )
        page.headers["Content-Security-Policy"] = _POLICY
        return page
