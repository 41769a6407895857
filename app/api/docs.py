"""`/docs` and `/openapi.json`, with nothing fetched from anywhere else."""

from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from app.api import problems

_STATIC = "/static"
# The badge of Swagger UI would send the document to a validator on the internet.
_PARAMETERS = {"validatorUrl": None, "tryItOutEnabled": True, "displayRequestDuration": True}


def install(app: FastAPI) -> None:
    """Serve the documentation of `app`, which must have no `docs_url` of its own."""
    app.mount(_STATIC, StaticFiles(directory=str(files("fastapi_offline") / "static")), name="static")
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        """The framework's document, completed with the problems that all routes refer to."""
        document = describe()
        document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = problems.SCHEMA
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the framework's own way to extend it

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}{_STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_STATIC}/favicon.png",
            swagger_ui_parameters=_PARAMETERS,
        )
