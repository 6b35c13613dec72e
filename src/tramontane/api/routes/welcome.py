"""The page behind ``console_url``: says what this is and where to go on.

The console will take its place; until then ``console_url`` leads here rather than to an error.
It shows nothing of the installation, for anyone may read it.
"""

from typing import Final

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from tramontane import __version__
from tramontane.api.access import GuardedRoute, public

_PAGE: Final = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tramontane</title>
<style>
  body {{ font: 16px/1.5 sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem }}
  code {{ background: #8882; padding: .1em .3em; border-radius: .2em }}
  :root {{ color-scheme: light dark }}
</style>
<h1>Tramontane {__version__}</h1>
<p>A sovereign AI cloud answers at this address. A console for the browser is not part of this
version; the command line and the API do everything that there is to do.</p>
<ul>
  <li>Talk with a model: <code>tramontane chat tramontane-demo</code></li>
  <li>See what is deployed: <code>tramontane deployments list</code></li>
  <li>Call models: the OpenAI and Mistral clients, with this origin and <code>/v1</code></li>
  <li>Manage by HTTP: <a href="/cloud/v1/openapi.json">the OpenAPI document</a></li>
</ul>
</html>
"""

# Nothing is loaded from anywhere, and nothing may frame the page.
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'",
    "cache-control": "no-store",
}

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)


@router.get("/console", dependencies=[public()])
def get_welcome() -> HTMLResponse:
    """Return the page."""
    return HTMLResponse(_PAGE, headers=_HEADERS)
