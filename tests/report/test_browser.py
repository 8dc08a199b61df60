"""Pages in a real browser: nothing runs over, pictures are where they should be, in both schemes and on paper."""

from __future__ import annotations

import os
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
_BOXES = """(selector => [...document.querySelectorAll(selector)].map(one => {
  const box = one.getBoundingClientRect();
  return [box.left + scrollX, box.top + scrollY, box.width, box.height].map(Math.round);
}).filter(box => box[2] > 4 && box[3] > 4))"""


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
    for selector in (".picture svg", ".weights svg", ".ratio svg", ".share"):
        for left, top, width, height in opened.evaluate(f"{_BOXES}({selector!r})")[:6]:
            region = picture[top : top + height, left : left + width].reshape(-1, 3)
            looked += 1
            # Drawn: several colours, none of which is all of it.
            colours, counts = _colours(region)
            assert len(colours) >= 3, (selector, top)
            assert counts.max() < 0.995 * len(region), (selector, top)
    assert looked >= 3


def _colours(region: Any) -> tuple[Any, Any]:
    import numpy as np

    packed = region.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    return np.unique(packed, return_counts=True)


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
