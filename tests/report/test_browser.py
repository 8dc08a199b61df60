"""Pages in a real browser: nothing runs over, pictures are where they should be, in both schemes and on paper."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report import browser
from tests.report.pages import PAGES, page

PROGRAM = browser.program()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no browser here; ONNXMORPH_BROWSER names one")


@pytest.fixture(scope="module")
def shown() -> Iterator[browser.Browser]:
    assert PROGRAM is not None
    with browser.Browser(PROGRAM) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("pages")
    for name in PAGES:
        (where / f"{name}.html").write_text(page(name), encoding="utf-8")
    return where


def keep(name: str, data: bytes) -> None:
    """Where ``ONNXMORPH_SCREENSHOTS`` names a folder, what was seen is kept there for a person."""
    if target := os.environ.get("ONNXMORPH_SCREENSHOTS"):
        (Path(target) / name).write_bytes(data)


# What a person would call broken: the page wider than the window, text that leaves its box, a box beside the page.
_FAULTS = """(() => {
  const found = [], width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) found.push('page is ' + document.documentElement.scrollWidth);
  for (const one of document.querySelectorAll('h1, h2, p, li, figure, .figures > div, .scroll, .picture, pre')) {
    const box = one.getBoundingClientRect();
    if (box.width && !one.closest('.scroll *, .picture *') && (box.right > width + 1 || box.left < -1))
      found.push(one.tagName + ' at ' + box.left + ' to ' + box.right);
  }
  for (const node of document.querySelectorAll('.picture g.node')) {
    const box = node.querySelector('rect').getBoundingClientRect();
    for (const text of node.querySelectorAll('text')) {
      const inner = text.getBoundingClientRect();
      if (inner.width > box.width + 2) found.push('label ' + text.textContent);
    }
  }
  return found;
})()"""
# What is painted, in which box, and in which colour the page says so.
_PAINTED = """(selector => [...document.querySelectorAll(selector)].map(one => {
  const box = one.getBoundingClientRect(), style = getComputedStyle(one);
  const paint = one instanceof SVGElement ? style.fill : style.backgroundColor;
  return [box.left + scrollX, box.top + scrollY, box.width, box.height].map(Math.round).concat([paint]);
}).filter(box => box[2] > 2 && box[3] > 2))"""
_PAINT = {".picture .node rect": 0.4, ".weights .bars": 0.08, ".ratio rect": 0.5, ".share span": 0.5}
"""How much of its box each must fill at least."""


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_page_fits_its_window(shown: browser.Browser, folder: Path, name: str, width: int, dark: bool) -> None:
    opened = shown.open(folder / f"{name}.html", width=width, dark=dark)
    assert opened.evaluate(_FAULTS) == []
    keep(f"{name}.{width}.png", opened.screenshot())


@pytest.mark.parametrize("name", ["one", "failed", "batch"])
@pytest.mark.parametrize("dark", [False, True])
def test_pictures_are_drawn_in_both_schemes(shown: browser.Browser, folder: Path, name: str, dark: bool) -> None:
    pytest.importorskip("PIL")
    opened = shown.open(folder / f"{name}.html", width=1280, dark=dark)
    picture: Any = opened.picture()
    background = picture[2, 2]
    assert (background.mean() < 60) == dark
    looked = 0
    for selector, least in _PAINT.items():
        for left, top, width, height, paint in opened.evaluate(f"{_PAINTED}({selector!r})")[:6]:
            numbers = re.findall(r"\d+", paint)
            assert len(numbers) == 3, f"{selector} is painted {paint}"
            region = picture[top : top + height, left : left + width].reshape(-1, 3).astype(int)
            near = abs(region - [int(number) for number in numbers]).max(axis=1) <= 12
            assert near.mean() >= least, (selector, top, near.mean())
            assert abs(region - background.astype(int)).max() > 20, selector
            looked += 1
    assert looked >= 5


@pytest.mark.parametrize("name", ["one", "many", "batch"])
def test_it_prints(shown: browser.Browser, folder: Path, name: str) -> None:
    data = shown.open(folder / f"{name}.html", width=1280).pdf()
    assert data.startswith(b"%PDF")
    pages = data.count(b"/Type /Page\n") + data.count(b"/Type /Page/") + data.count(b"/Type /Page ")
    assert 1 <= pages < 40
    keep(f"{name}.pdf", data)


def test_no_script_would_run(shown: browser.Browser, folder: Path) -> None:
    opened = shown.open(folder / "hostile.html", width=1280)
    assert opened.evaluate("document.scripts.length + document.images.length") == 0
    assert opened.evaluate("document.querySelectorAll('[onerror]').length") == 0
