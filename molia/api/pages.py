"""Two small pages for people: the routes, and what each problem code means. No script, no CDN."""

from html import escape
from typing import Any

from molia.base.errors import OUTCOMES

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{background:#8882;padding:.1em .3em}dt{margin-top:1em;font-weight:600}"
    "td{padding:.2em 1em .2em 0;vertical-align:top}"
)
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def routes_page(document: dict[str, Any]) -> str:
    """Return the page that lists the operations of an OpenAPI document."""
    rows = [
        f"<tr><td><code>{method.upper()}</code></td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(operation.get('description') or operation.get('summary', ''))}</td></tr>"
        for path, operations in sorted(document["paths"].items())
        for method, operation in operations.items()
    ]
    intro = (
        f"<p>Version {escape(document['info']['version'])}. The whole contract is "
        '<a href="/openapi.json">openapi.json</a>; '
        '<a href="/docs/errors">problem codes</a> have a page of their own.</p>'
    )
    return _page("Molia API", f"{intro}<table>{''.join(rows)}</table>")


def errors_page() -> str:
    """Return the page to which the `type` of every problem document points."""
    items = [
        f'<dt id="{outcome.code}"><code>{outcome.code}</code> {outcome.status} '
        f"{escape(outcome.title)}</dt><dd>{escape(kind.__doc__ or '')}</dd>"
        for kind, outcome in OUTCOMES.items()
    ]
    return _page("Problem codes", f"<dl>{''.join(items)}</dl>")


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1>{body}</html>"
    )
