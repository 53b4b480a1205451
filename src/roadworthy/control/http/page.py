"""The API's documentation page. Its script and style come from an installed package, so it works without internet access."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

PAGE = "/docs"
SCRIPT = "/docs/swagger-ui-bundle.js"
STYLE = "/docs/swagger-ui.css"
ICON = "/docs/favicon.png"

_STATIC = files("fastapi_offline") / "static"
_A_DAY = {"Cache-Control": "public, max-age=86400"}


def routes(title: str, openapi: str) -> APIRouter:
    """The router. `openapi` is the path of the API's description."""
    router = APIRouter(include_in_schema=False)

    @router.get(PAGE, response_class=HTMLResponse)
    def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=openapi,
            title=f"{title} API",
            swagger_js_url=SCRIPT,
            swagger_css_url=STYLE,
            swagger_favicon_url=ICON,
        )

    @router.get(SCRIPT, response_class=FileResponse)
    def script() -> FileResponse:
        return FileResponse(str(_STATIC / "swagger-ui-bundle.js"), media_type="text/javascript", headers=_A_DAY)

    @router.get(STYLE, response_class=FileResponse)
    def style() -> FileResponse:
        return FileResponse(str(_STATIC / "swagger-ui.css"), media_type="text/css", headers=_A_DAY)

    @router.get(ICON, response_class=FileResponse)
    def icon() -> FileResponse:
        return FileResponse(str(_STATIC / "favicon.png"), media_type="image/png", headers=_A_DAY)

    return router
