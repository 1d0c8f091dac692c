"""HTML from plain values: everything is escaped here, and nowhere else is HTML put together from data."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Cell = str | Markup


def text(value: Cell) -> Markup:
    """A value as HTML: escaped unless it is `Markup`."""
    return value if isinstance(value, Markup) else Markup(escape(value))


def element(name: str, content: Cell = "", **attributes: str) -> Markup:
    """`<name attributes>content</name>`; a trailing underscore and other underscores of attributes become hyphens."""
    parts = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{parts}>{text(content)}</{name}>")


def join(parts: Sequence[Cell], separator: str = "\n") -> Markup:
    """Several pieces as one."""
    return Markup(separator.join(text(part) for part in parts))


def table(caption: str, head: Sequence[Cell], rows: Sequence[Sequence[Cell]], *, look: str = "plain") -> Markup:
    """A table whose first column names its rows, in a frame that scrolls sideways where the window is narrow.

    Args:
        caption: what it shows.
        head: names of the columns.
        rows: cells, as many as there are names.
        look: "plain", "overview" (cells do not wrap) or "numeric" (and are set flush right).
    """
    header = join([element("th", name, scope="col") for name in head], "")
    body = [join([element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])], "") for row in rows]
    inner = join(
        [
            element("caption", caption),
            element("thead", element("tr", header)),
            element("tbody", join([element("tr", row) for row in body])),
        ]
    )
    frame = element("table", inner, class_=look)
    return element("div", frame, class_="scroll", tabindex="0", role="region", aria_label=caption)


def embedded(value: Any) -> str:
    """JSON that is safe inside a script element: no `<`, so neither `</script>` nor `<!--` can occur.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
