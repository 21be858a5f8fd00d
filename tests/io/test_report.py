from __future__ import annotations

import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from c2lst.io._report import Block, report


class Page(HTMLParser):
    """Collects tags and checks that they are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.words.append(data.strip())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def write(tmp_path):
    def write(*blocks, **kwargs):
        path = report(tmp_path / "report.html", blocks, **{"title": "A run", **kwargs})
        return Page(path.read_text("utf8")), path

    return write


def test_text_is_escaped_but_for_bold_code_and_lists(write):
    page, path = write("a < b & **c <i>** `d`\n\n- one\n- two\n\nend <script>alert(1)</script>")
    text = path.read_text("utf8")
    assert "a &lt; b &amp; <strong>c &lt;i&gt;</strong> <code>d</code>" in text
    assert "<li>one</li><li>two</li>" in text
    assert not page.all("script")


def test_the_title_is_escaped_and_stands_at_the_top(write):
    page, path = write(title="<A>", subtitle="of **two**")
    assert page.words[0] == "<A>"
    assert "<h1>&lt;A&gt;</h1><p>of <strong>two</strong></p>" in path.read_text("utf8")


def test_figures_are_inside_and_closed(write):
    from PIL import Image

    fig, ax = plt.subplots(figsize=(2, 1))
    page, path = write(Block.figure(fig, "a **line**", dpi=100))
    (image,) = page.all("img")
    assert image["alt"] == "a line"
    head, data = image["src"].split(",")
    assert head == "data:image/png;base64"
    png = Image.open(BytesIO(b64decode(data)))
    assert f"width: {png.width * 96 / 100:.0f}px" in image["style"]
    assert not plt.fignum_exists(fig.number)


def test_nothing_is_loaded_from_elsewhere(write):
    fig, _ = plt.subplots()
    page, path = write(Block.heading("H"), Block.figure(fig), Block.table(pd.DataFrame({"a": [1]})))
    assert not re.search(r"https?://|@import|url\(", path.read_text("utf8"))
    assert not page.all("link")
    assert not page.all("script")


def test_tables_write_numbers_for_people(write):
    frame = pd.DataFrame(
        {"pcc": [0.12345, np.nan], "n": [12345, 1], "big": [123456.7, 1.0], "ok": [True, False], "share": [0.5, 0.251]},
        index=pd.Index(["a<b", "c"], name="arm"),
    )
    page, path = write(Block.table(frame, "what it says", formats={"share": "{:.0%}"}))
    assert page.words[page.words.index("what it says") + 1 :][:18] == [
        *["arm", "pcc", "n", "big", "ok", "share"],
        *["a<b", "0.123", "12,345", "123,457", "yes", "50%"],
        *["c", "–", "1", "1", "no", "25%"],
    ]


def test_a_plain_index_is_left_out(write):
    page, _ = write(Block.table(pd.DataFrame({"a": ["x"]})))
    assert len(page.all("th")) == 1


def test_key_figures_are_tiles(write):
    page, _ = write(Block.key_figures([(0.314159, "mean PCC", "of **five** genes"), ("12 %", "closed")]))
    assert [a.get("class") for a in page.all("div")] == ["tiles", "tile", "tile"]
    assert "0.314" in page.words
    assert "12 %" in page.words
    assert "five" in page.words


def test_details_are_folded_json(write):
    page, path = write(Block.details("parameters", {"seeds": range(2), "x": np.float32(0.5), "none": None, "<": 1}))
    assert page.all("details") == [{}]
    assert '"seeds": [\n    0,\n    1\n  ]'.replace('"', "&quot;") in path.read_text("utf8")
    assert "&lt;" in path.read_text("utf8")


def test_headings_are_listed_where_there_are_several(write):
    page, _ = write(*(Block.heading(name) for name in "ABC"), Block.heading("D", 3))
    assert [a["href"] for a in page.all("a")] == ["#part0", "#part1", "#part2"]
    ids = [attrs["id"] for tag, attrs in page.tags if tag in ("h2", "h3")]
    assert ids == [f"part{i}" for i in range(4)]
    page, _ = write(Block.heading("A"))
    assert not page.all("nav")


def test_the_same_blocks_give_the_same_bytes(tmp_path):
    pages = []
    for name in ("a.html", "b.html"):
        fig, ax = plt.subplots()
        ax.plot([0, 1])
        pages.append(report(tmp_path / name, [Block.figure(fig)], title="T").read_bytes())
    assert pages[0] == pages[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_bad_input_is_named(tmp_path, write):
    with pytest.raises(TypeError, match=r"blocks\[1\] .* not int"):
        write("fine", 3)
    with pytest.raises(ValueError, match="does not exist"):
        report(tmp_path / "none" / "r.html", [], title="T")
    with pytest.raises(ValueError, match="is a directory"):
        report(tmp_path, [], title="T")
    with pytest.raises(TypeError, match="ax.figure"):
        Block.figure(plt.subplots()[1])
    with pytest.raises(KeyError, match="'b'"):
        Block.table(pd.DataFrame({"a": [1]}), formats={"b": "{}"})
    with pytest.raises(ValueError, match="level=1"):
        Block.heading("x", 1)
