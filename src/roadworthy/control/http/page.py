"""The API's documentation page. Its script and style come from an installed package, so it works without internet access."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

PAGE = "/docs"
SCRIPT = "/docs/swagger-ui-bundle.js"
STYLE = "/docs/swagger-ui.css"
ICON = "/docs/favicon.png"

_STATIC = files("fastapi_offline") / "static"
_MEDIA_TYPES = {SCRIPT: "text/javascript", STYLE: "text/css", ICON: "image/png"}
_A_DAY = {"Cache-Control": "public, max-age=86400"}


def routes(title: str, openapi: str) -> APIRouter:
    """The router. `openapi` is the path of the API's description."""
    router = APIRouter()

    @router.get(PAGE, response_class=HTMLResponse)
    def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=openapi,
            title=f"{title} API",
            swagger_js_url=SCRIPT,
            swagger_css_url=STYLE,
            swagger_favicon_url=ICON,
        )

    for path, media_type in _MEDIA_TYPES.items():
        router.get(path, response_class=FileResponse)(_sender(path, media_type))
    return router


def _sender(path: str, media_type: str) -> Callable[[], FileResponse]:
    file = str(_STATIC / path.removeprefix(f"{PAGE}/"))
    return lambda: FileResponse(file, media_type=media_type, headers=_A_DAY)
