"""Markdown report as one self-contained, printable HTML file with embedded pictures."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 "DejaVu Sans", Verdana, sans-serif; color: #222; max-width: 60em; margin: 2.5em auto; }
h1 { font-size: 1.55em; line-height: 1.25; } h2 { font-size: 1.15em; margin-top: 2.2em; border-bottom: 1px solid #ddd; }
blockquote { margin: 1em 0; padding: .1em 1em; border-left: 4px solid #d55e00; background: #fdf3ec; }
table { border-collapse: collapse; font-size: .82em; margin: 1em 0; }
th, td { padding: .22em .7em; border-bottom: 1px solid #e6e6e6; }
th { text-align: left; } td { font-variant-numeric: tabular-nums; } img { max-width: 100%; }
code { font-size: .9em; background: #f5f5f5; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
@media print { body { max-width: none; margin: 0; } h2 { break-after: avoid; } img, table { break-inside: avoid; } }
"""


def render_html(title: str, markdown: str, folder: Path) -> str:
    """Return an HTML document. Pictures are read from `folder` and embedded; raw HTML in the text is escaped."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(markdown)
    for token in tokens:
        for child in token.children or ():
            _embed_image(child, folder)
    body = reader.renderer.render(tokens, reader.options, {})
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )


def _embed_image(token: Token, folder: Path) -> None:
    if token.type == "image":
        content = (folder / str(token.attrs["src"])).read_bytes()
        token.attrs["src"] = "data:image/png;base64," + base64.b64encode(content).decode()
