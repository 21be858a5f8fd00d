from __future__ import annotations

import html
import json
import math
import os
import re
from base64 import b64encode
from dataclasses import dataclass, field
from io import BytesIO
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2lst._checks import check_choice, check_positive
from c2lst._notes import jsonable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd
    from matplotlib.figure import Figure

CSS = """\
:root { --ink: #1d2430; --soft: #5b6675; --line: #dfe3e8; --tile: #f5f7f9; --accent: #0b5a8f; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.5rem 4rem; color: var(--ink); background: #fff;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header { border-bottom: 3px solid var(--accent); margin-bottom: 1.5rem; padding-bottom: 1rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0; }
header p { color: var(--soft); margin: .5rem 0 0; }
h2 { font-size: 1.35rem; margin: 2.75rem 0 .5rem; padding-top: .25rem; }
h3 { font-size: 1.08rem; margin: 1.75rem 0 .25rem; }
p, ul { max-width: 44rem; margin: .6rem 0; }
ul { padding-left: 1.3rem; }
code { background: var(--tile); border-radius: 3px; font-size: .88em; padding: .1em .3em; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .9rem; margin-bottom: 1rem; }
nav a { color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
.tiles { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); margin: 1.2rem 0; }
.tile { background: var(--tile); border-left: 4px solid var(--accent); border-radius: 4px; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.8rem; font-variant-numeric: tabular-nums; line-height: 1.2; }
.tile span { display: block; font-weight: 600; }
.tile small { color: var(--soft); display: block; font-size: .85rem; line-height: 1.4; margin-top: .25rem; }
figure { margin: 1.4rem 0; }
figure img { display: block; height: auto; max-width: 100%; }
figcaption, caption { color: var(--soft); font-size: .9rem; line-height: 1.45; max-width: 48rem; text-align: left; }
figcaption { margin-top: .4rem; }
caption { caption-side: bottom; padding-top: .4rem; }
.wide { margin: 1.4rem 0; overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; text-align: left; }
td.number { white-space: nowrap; }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600; }
tbody th { font-weight: 500; }
.number { text-align: right; }
details { border: 1px solid var(--line); border-radius: 4px; margin: 1rem 0; padding: .5rem .9rem; }
summary { cursor: pointer; font-weight: 500; }
pre { font-size: .82rem; line-height: 1.45; overflow-x: auto; white-space: pre-wrap; }
footer { border-top: 1px solid var(--line); color: var(--soft); font-size: .85rem; margin-top: 3rem; padding: .8rem 0; }
@media print {
  body { font-size: 11pt; max-width: none; padding: 0; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  figure, .tile, tr { break-inside: avoid; }
  .tile { border: 1px solid var(--line); border-left: 4px solid var(--accent); }
}
"""


@dataclass(frozen=True)
class Block:
    """One part of a report, made by one of the methods below; :func:`report` writes them in order.

    Examples
    --------
    >>> import c2lst as c2l
    >>> c2l.io.Block.heading("Overlap").kind
    'heading'
    """

    kind: str
    content: Any
    caption: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def heading(cls, text: str, level: int = 2) -> Block:
        """Start a section (level 2, listed at the top of the page) or a part of one (level 3)."""
        check_choice("level", level, (2, 3))
        return cls("heading", str(text), options={"level": level})

    @classmethod
    def text(cls, text: str) -> Block:
        """Write plain text.

        An empty line starts a paragraph, lines that start with `- ` are a list, `**bold**` and backticks do what they
        do in Markdown; everything else stands as it is, HTML included.
        """
        return cls("text", str(text))

    @classmethod
    def figure(cls, figure: Figure, caption: str = "", *, dpi: float = 120) -> Block:
        """Show a matplotlib figure; it is closed once it is written."""
        if not hasattr(figure, "savefig"):
            raise TypeError(f"figure must be a matplotlib Figure (`ax.figure`), not {type(figure).__name__}.")
        check_positive("dpi", dpi)
        return cls("figure", figure, caption, {"dpi": dpi})

    @classmethod
    def table(cls, frame: pd.DataFrame, caption: str = "", *, formats: Mapping[str, str] | None = None) -> Block:
        """Show a data frame, numbers with three significant digits or as `formats`, e.g. `{"share": "{:.0%}"}`."""
        if not hasattr(frame, "columns"):
            raise TypeError(f"frame must be a pandas DataFrame, not {type(frame).__name__}.")
        unknown = [name for name in formats or {} if name not in frame.columns]
        if unknown:
            raise KeyError(f"formats names {unknown}, which the frame lacks; it has {list(frame.columns)}.")
        return cls("table", frame, caption, {"formats": dict(formats or {})})

    @classmethod
    def key_figures(cls, figures: Sequence[Sequence[Any]]) -> Block:
        """Show tiles: a list of `(value, label)` or `(value, label, explanation)`."""
        rows = [tuple(row) for row in figures]
        if any(len(row) not in (2, 3) for row in rows):
            raise ValueError("key_figures takes a list of (value, label) or (value, label, explanation).")
        return cls("key_figures", rows)

    @classmethod
    def details(cls, title: str, value: Any) -> Block:
        """Show what can be written as JSON, folded away under `title`."""
        return cls("details", jsonable(value), str(title))


def report(path: str | os.PathLike, blocks: Iterable[Block | str], *, title: str, subtitle: str = "") -> Path:
    """Write a page of HTML that stands alone: figures are inside it, and it loads nothing from elsewhere.

    Figures are closed once they are written. A file at `path` is replaced.

    Parameters
    ----------
    path
        Where to write, usually `.html`.
    blocks
        What to write, each a :class:`Block`; a plain string is text.
    title, subtitle
        Shown at the top.

    Returns
    -------
    The path.

    Raises
    ------
    TypeError
        If a block is anything else.
    ValueError
        If the directory of `path` does not exist, or `path` is a directory.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import c2lst as c2l
    >>> blocks = [c2l.io.Block.key_figures([(0.31, "mean PCC", "over 50 genes")]), "We took **20** spots."]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = c2l.io.report(pathlib.Path(folder) / "report.html", blocks, title="A run").read_text("utf8")
    >>> "<strong>20</strong>" in page
    True
    """
    from c2lst import __version__

    path = Path(path)
    if path.is_dir():
        raise ValueError(f"path={str(path)!r} is a directory; name a file, e.g. {str(path / 'report.html')!r}.")
    if not path.parent.is_dir():
        raise ValueError(f"The directory {str(path.parent)!r} does not exist; make it first.")
    blocks = [Block.text(b) if isinstance(b, str) else b for b in blocks]
    for i, block in enumerate(blocks):
        if not isinstance(block, Block):
            raise TypeError(f"blocks[{i}] must be a c2lst.io.Block or a string, not {type(block).__name__}.")
        check_choice(f"blocks[{i}].kind", block.kind, WRITERS)
    heads = [(i, b.content) for i, b in enumerate(blocks) if b.kind == "heading" and b.options["level"] == 2]
    links = "".join(f'<a href="#part{i}">{html.escape(text)}</a>' for i, text in heads)
    body = "\n".join(WRITERS[block.kind](block, i) for i, block in enumerate(blocks))
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n"
        f"<header><h1>{html.escape(title)}</h1>{f'<p>{_inline(subtitle)}</p>' if subtitle else ''}</header>\n"
        + (f"<nav>{links}</nav>\n" if len(heads) > 2 else "")
        + f"<main>\n{body}\n</main>\n<footer>Written by c2lst {html.escape(__version__)}.</footer>\n</body>\n</html>\n"
    )
    part = path.with_name(path.name + ".part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)  # whoever has the page open never sees half of it
    return path


def _heading(block: Block, i: int) -> str:
    level = block.options["level"]
    return f'<h{level} id="part{i}">{_inline(block.content)}</h{level}>'


def _text(block: Block, i: int) -> str:
    out = []
    for part in re.split(r"\n\s*\n", block.content.strip()):
        lines = [line.strip() for line in part.splitlines()]
        items = [line[2:] for line in lines if line.startswith("- ")]
        if items and len(items) == len(lines):
            out.append("<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>")
        else:
            out.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "\n".join(out)


def _figure(block: Block, i: int) -> str:
    import matplotlib.pyplot as plt

    png = BytesIO()
    dpi = block.options["dpi"]
    block.content.savefig(
        png, format="png", dpi=dpi, bbox_inches="tight", facecolor="white", metadata={"Software": None}
    )
    plt.close(block.content)
    data = png.getvalue()
    width = int.from_bytes(data[16:20], "big")  # of the PNG header
    caption = f"<figcaption>{_inline(block.caption)}</figcaption>" if block.caption else ""
    alt = html.escape(re.sub(r"\*\*|`", "", block.caption) or "figure")
    return (
        f'<figure><img alt="{alt}" style="width: {width * 96 / dpi:.0f}px" '
        f'src="data:image/png;base64,{b64encode(data).decode()}">{caption}</figure>'
    )


def _table(block: Block, i: int) -> str:
    import pandas as pd

    frame, formats = block.content, block.options["formats"]
    index = not isinstance(frame.index, pd.RangeIndex)
    numeric = [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]
    sides = [' class="number"' if number else "" for number in numeric]
    head = f"<th>{html.escape(str(frame.index.name or ''))}</th>" if index else ""
    head += "".join(f"<th{s}>{html.escape(str(c))}</th>" for s, c in zip(sides, frame.columns, strict=True))
    rows = []
    for name, row in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        cells = f"<th>{html.escape(_value(name))}</th>" if index else ""
        for side, column, value in zip(sides, frame.columns, row, strict=True):
            known = column in formats and not _absent(value)
            text = formats[column].format(value) if known else _value(value)
            cells += f"<td{side}>{html.escape(text)}</td>"
        rows.append(f"<tr>{cells}</tr>")
    caption = f"<caption>{_inline(block.caption)}</caption>" if block.caption else ""
    body = "\n".join(rows)
    return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _key_figures(block: Block, i: int) -> str:
    tiles = []
    for value, label, *rest in block.content:
        more = f"<small>{_inline(str(rest[0]))}</small>" if rest and rest[0] else ""
        tiles.append(
            f'<div class="tile"><b>{html.escape(_value(value))}</b><span>{_inline(str(label))}</span>{more}</div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _details(block: Block, i: int) -> str:
    text = json.dumps(block.content, indent=2, ensure_ascii=False)
    return f"<details><summary>{_inline(block.caption)}</summary><pre>{html.escape(text)}</pre></details>"


WRITERS = {
    "heading": _heading,
    "text": _text,
    "figure": _figure,
    "table": _table,
    "key_figures": _key_figures,
    "details": _details,
}


def _inline(text: str) -> str:
    """Escape a line of text; `**bold**` and backticks are kept."""
    text = html.escape(text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)


def _absent(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, Real) and math.isnan(value))


def _value(value: Any) -> str:
    """Write a value: three significant digits for fractions, groups of thousands for whole numbers."""
    import numpy as np

    if _absent(value):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        value = float(value)
        if abs(value) >= 1000 and math.isfinite(value):
            return f"{value:,.0f}"
        return f"{value:.3g}"
    return str(value)
