"""Owns the pieces that the pages about runs and datasets are made of."""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_STYLE = Path(__file__).with_name("style.css")


def style() -> str:
    """The style sheet of all pages."""
    return _STYLE.read_text("utf-8")


def warnings(texts: Sequence[str]) -> str:
    """What has to be looked at, as a section; nothing if there is nothing."""
    if not texts:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<section class="warnings"><h2>Look at this</h2><ul>{items}</ul></section>'


def bars(values: Iterable[tuple[str, float, str]]) -> str:
    """Name, share in [0, 1] and the text behind its bar, for each."""
    items = "".join(
        f'<li><span class="name" title="{escape(name)}">{escape(name)}</span>'
        f'<span class="track"><span style="width:{100 * share:.1f}%"></span></span>'
        f'<span class="value">{escape(text)}</span></li>'
        for name, share, text in values
    )
    return f'<ul class="bars">{items}</ul>' if items else ""


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table. head: plain text; rows: HTML. The last column takes what room is left."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def pairs(values: Mapping[str, Any], kind: str = "settings") -> str:
    pairs = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(shown(value))}</dd></div>"
        for key, value in values.items()
    )
    return f'<dl class="{kind}">{pairs}</dl>'


def figure(uri: str, caption: str, kind: str = "") -> str:
    image = f'<img src="{uri}" alt="{escape(caption)}">'
    return f'<figure class="{kind}">{image}<figcaption>{escape(caption)}</figcaption></figure>'


def uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def quiet(text: str) -> str:
    return f'<p class="quiet">{escape(text)}</p>'


def shown(value: Any) -> str:
    """As `--set` takes it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
