"""Pages: whole, self-contained, and told in a way that no name can change."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from onnxmorph.errors import SelectionError
from onnxmorph.report.batch import batch_page, outcomes_of_batch
from onnxmorph.report.junit import junit_xml, suite_of
from onnxmorph.report.page import Html, document, element, escaped, table
from tests.report.pages import HOSTILE, PAGES, batch_report, page
from tests.report.test_junit import check_schema

_EMPTY = {"meta", "path", "rect"}


class Reader(HTMLParser):
    """Tags in order; every one that is opened must be closed where it should."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        # In SVG these may stand alone or hold a title.
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _EMPTY
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_needs_nothing_but_itself(name: str) -> None:
    text = page(name)
    read = Reader(text)
    assert set(read.tags) <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "main",
            "section",
            "div",
            "h1",
            "h2",
            "h3",
            "p",
            "span",
            "b",
            "i",
        ),
        *("ul", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "figure"),
        *("figcaption", "pre", "svg", "g", "path", "rect", "text"),
    }
    assert not any(key.startswith("on") or key in ("src", "href") for key, _ in read.attributes)
    assert not re.search(r"@import|url\(|\x00", text)
    assert "Content-Security-Policy" in text and 'name="viewport"' in text and "prefers-color-scheme" in text


@pytest.mark.parametrize("name", ["hostile", "batch"])
def test_hostile_names_are_shown_as_they_are(name: str) -> None:
    text = page(name)
    assert "<script" not in text and "<img" not in text
    shown = HOSTILE.replace("\x00", "\\u0000")
    assert shown in Reader(text).text


def test_what_is_told_of_a_morph() -> None:
    text = Reader(page("one")).text
    for words in (
        "✓ equivalent",
        "replace by two Conv layers",
        "16,530",
        "from 11,874, ×1.39",
        "features.conv2.0.weight",
        "Errors against the noise floor",
        "New kernels",
        "Before",
        "After",
    ):
        assert words in text
    assert "✗ not equivalent" in Reader(page("failed")).text
    assert "not verified" in Reader(page("ten")).text
    same = Reader(page("same")).text
    assert "no difference" in same and "Before" not in same


def test_weights_are_beside_those_they_came_from() -> None:
    text = page("one")
    rows = re.findall(r'<div class="weights">(.*?)</div>', text, flags=re.DOTALL)
    assert len(rows) == 1
    names = re.findall(r"<figcaption><b>([^<]*)</b>(before|after|new)", rows[0])
    assert names == [
        ("features.conv2.weight", "before"),
        ("features.conv2.0.weight", "after"),
        ("features.conv2.1.weight", "after"),
    ]


def test_a_large_change_is_cut_and_says_so() -> None:
    text = page("many")
    assert "more changed nodes are not drawn" in text and "more tensors changed and are not shown" in text
    assert text.count('<g class="node') < 2 * 60 + 2 * 60 * 5 and len(text) < 600_000


def test_a_batch_is_told_model_by_model_with_what_needs_a_person_first() -> None:
    read = Reader(page("batch"))
    for words in ("60 done", "20 not equivalent", "20 refused", "20 failed", "weight-not-constant", "grow.toml"):
        assert words in read.text, words
    assert read.text.index("model_4.onnx") < read.text.index("model_3.onnx") < read.text.index("model_0.onnx")


def test_a_batch_gives_junit_too() -> None:
    outcomes = outcomes_of_batch(batch_report(12))
    assert [outcome.exit_code for outcome in outcomes[:6]] == [0, 0, 0, 3, 1, 4]
    root = check_schema(junit_xml([suite_of(outcome) for outcome in outcomes]))
    assert (root.get("failures"), root.get("errors")) == ("2", "4")
    assert outcomes[0].child == "out/family/model_0.onnx"


@pytest.mark.parametrize("document", [{}, {"kind": "onnxmorph.batch"}, {"kind": "other", "models": []}])
def test_what_is_no_report_of_a_batch_is_said(document: dict[str, object]) -> None:
    with pytest.raises(SelectionError):
        batch_page(document)


def test_text_is_escaped_where_it_enters() -> None:
    assert escaped("<&\"'\x00\x9b\ud800\t") == "&lt;&amp;&quot;&#x27;\\u0000\\u009b\\ud800\t"
    assert element("p", "<b>", Html("<i></i>"), class_='"x', data_y=None) == '<p class="&quot;x">&lt;b&gt;<i></i></p>'
    assert "<details>" in table(("name",), [("x",)] * 100) and "<details>" not in table(("name",), [("x",)] * 20)
    Reader(document("<t>", "<p>", table((">n", ""), [("1", "<")])))


def test_tolerances_other_providers_and_proofs_are_told() -> None:
    from onnxmorph.report.morph import Told, morph_page
    from tests.report.pages import chain

    value = {
        "name": "y",
        "status": "within-tolerance",
        "max_abs": 0.5,
        "noise_floor": 0.1,
        "ratio": 99.0,
        "excess": 0.5,
    }
    told = {"equivalent": True, "provider": "CPUExecutionProvider", "inputs": 3, "limit": 16.0, "outputs": [value]}
    proof = {"proved": 1, "of": 2, "residual": 1e-8, "rounding_bound": 1e-6, "values": []}
    other = {**told, "provider": "CUDAExecutionProvider", "outputs": [{**value, "name": "on the other"}]}
    page = morph_page(chain(1), chain(1), Told(certificate={**told, "static": proof, "also": [other]}))
    text = Reader(page).text
    for words in ("within-tolerance: 0.5 of what is allowed", "On CUDA", "on the other", "By algebra 1 of 2", "(16)"):
        assert words in text, words
