"""JUnit XML: what readers of it have in common, held by every outcome and any text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmorph.report.junit import Case, Suite, junit_xml, suite_of
from onnxmorph.report.outcomes import Outcome, exit_code, of_certificate, of_error, reading


def comparison(name: str, status: str = "equal", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "status": status,
        "max_abs": 0.5,
        "noise_floor": 0.1,
        "ratio": 5.0,
        "channel_ratio": 1.0,
        **more,
    }


def certificate(*, equivalent: bool = False, **more: Any) -> dict[str, Any]:
    failures = [] if equivalent else ["inner value 'v' differs by 0.5", "output 'y' differs by 0.5", "a hint"]
    return {
        "equivalent": equivalent,
        "provider": "CPUExecutionProvider",
        "inputs": 3,
        "limit": 24.0,
        "precision": "as stored",
        "outputs": [comparison("y", "equal" if equivalent else "differs"), comparison("z", "nondeterministic")],
        "inner": [comparison("v", "equal" if equivalent else "differs"), comparison("w")],
        "failures": failures,
        "warnings": ["careful"],
        "faults": [{"seen": True}],
        "detectable_fault": 0.01,
        "tiers": ["optimisations off"],
        "seconds": 1.5,
        **more,
    }


def check_schema(text: str) -> ET.Element:
    """The rules that Jenkins', GitLab's and Azure's readers have in common."""
    root = ET.fromstring(text.encode())
    assert root.tag == "testsuites"
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in root:
        assert suite.tag == "testsuite" and suite.get("name") is not None
        tags = [child.tag for child in suite]
        order = {"properties": 0, "testcase": 1, "system-out": 2, "system-err": 3}
        assert [order[tag] for tag in tags] == sorted(order[tag] for tag in tags)
        assert tags.count("properties") <= 1
        if (stamp := suite.get("timestamp")) is not None:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", stamp)
        found = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
        for case in suite.iter("testcase"):
            assert case.get("name") is not None and case.get("classname") is not None
            assert re.fullmatch(r"\d+\.\d+", case.get("time", ""))
            results = [child.tag for child in case]
            assert len(results) <= 1 and set(results) <= {"failure", "error", "skipped"}
            found["tests"] += 1
            for tag, key in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
                found[key] += tag in results
            for child in case:
                assert child.get("message") is not None and "\n" not in str(child.get("message"))
                assert child.tag == "skipped" or child.get("type")
        for key, number in found.items():
            assert int(suite.get(key, "")) == number
            totals[key] += number
        for entry in suite.iter("property"):
            assert entry.get("name") and entry.get("value") is not None
    for key, number in totals.items():
        assert int(root.get(key, "")) == number
    assert float(root.get("time", "")) >= 0
    return root


def test_a_wrong_child_fails_at_what_differs_and_nowhere_else() -> None:
    outcome = of_certificate("p", certificate(), parent="a.onnx", child="b.onnx")
    root = check_schema(junit_xml([suite_of(outcome)], timestamp="2026-01-31T12:00:00"))
    failed = {case.get("name"): case.find("failure") for case in root.iter("testcase")}
    assert {name for name, failure in failed.items() if failure is not None} == {"output y", "inner value v"}
    failure = failed["inner value v"]
    assert failure is not None and failure.get("message") == "inner value 'v' differs by 0.5"
    assert "noise_floor: 0.1" in str(failure.text) and "a hint" in str(failure.text)
    assert [case.get("name") for case in root.iter("testcase") if case.find("skipped") is not None] == ["output z"]
    properties = {entry.get("name"): entry.get("value") for entry in root.iter("property")}
    assert properties["provider"] == "CPUExecutionProvider" and properties["parent"] == "a.onnx"
    assert "careful" in str(root[0].findtext("system-out"))


def test_a_failure_of_no_value_fails_the_case_of_the_interface() -> None:
    bad = certificate(outputs=[], inner=[], failures=["output 'y' is missing in the child"], faults=[])
    root = check_schema(junit_xml([suite_of(of_certificate("p", bad))]))
    assert [case.get("name") for case in root.iter("testcase")] == ["interface and runs"]
    assert root.find(".//failure").get("message") == "output 'y' is missing in the child"  # type: ignore[union-attr]


def test_one_name_that_begins_like_another_is_not_taken_for_it() -> None:
    bad = certificate(inner=[], outputs=[comparison("y2", "differs"), comparison("y", "differs")])
    bad["failures"] = ["output 'y2' differs by 2", "output 'y' differs by 1"]
    root = check_schema(junit_xml([suite_of(of_certificate("p", bad))]))
    assert [failure.get("message") for failure in root.iter("failure")] == bad["failures"]


@pytest.mark.parametrize(
    ("verdict", "tag"),
    [
        ("equivalent", None),
        ("not equivalent", "failure"),
        ("refused", "error"),
        ("failed", "error"),
        ("skipped", "skipped"),
    ],
)
def test_without_a_certificate_there_is_one_case(verdict: Any, tag: str | None) -> None:
    root = check_schema(junit_xml([suite_of(Outcome("m", verdict, "why", 0.5, child="c.onnx"))]))
    (case,) = root.iter("testcase")
    assert [child.tag for child in case] == ([tag] if tag else [])
    assert case.get("file") == "c.onnx"


@given(text=st.text(), message=st.text(), file=st.text())
def test_any_text_gives_xml_that_can_be_read(text: str, message: str, file: str) -> None:
    case = Case(text, text, "failure", message, text + message)
    suite = Suite(
        text, (case, Case(message, text, "skipped", text)), properties={"k" + text: message}, file=file, output=text
    )
    check_schema(junit_xml([suite], name=message))


def test_what_xml_can_hold_is_kept_as_it_is() -> None:
    text = "<a href='x'>&amp; ]]> \"q\" é 💥"
    root = check_schema(junit_xml([Suite(text, (Case(text, text, "error", text, text),))]))
    error = root.find(".//error")
    assert error is not None and error.text == text and error.get("message") == text
    assert check_schema(junit_xml([Suite("a\x00b\ud800", ())]))[0].get("name") == "a\\u0000b\\ud800"


def test_the_worst_is_a_wrong_child_then_what_could_not_be_checked_then_a_refusal() -> None:
    from onnxmorph.errors import ModelError, Refusal, SelectionError

    wrong, fine = Outcome("a", "not equivalent"), Outcome("b", "equivalent")
    failed, usage = of_error("c", ModelError("x")), of_error("d", SelectionError("x"))
    refused = of_error("e", Refusal("x"))
    assert [one.exit_code for one in (fine, wrong, usage, refused, failed)] == [0, 1, 2, 3, 4]
    assert exit_code([fine, refused, failed, wrong, usage]) == 1
    assert exit_code([fine, refused, failed, usage]) == 4
    assert exit_code([fine, refused, usage]) == 2 and exit_code([fine, refused]) == 3
    assert exit_code([]) == exit_code([fine, Outcome("s", "skipped")]) == 0
    assert reading([fine, wrong, fine]) == "2 equivalent, 1 not equivalent"


def test_each_provider_has_its_own_cases() -> None:
    other = certificate(equivalent=False, provider="CUDAExecutionProvider")
    both = certificate(equivalent=True, also=[other])
    both["equivalent"], both["failures"] = False, [f"on CUDA: {failure}" for failure in other["failures"]]
    root = check_schema(junit_xml([suite_of(of_certificate("p", both))]))
    failed = {str(case.get("classname")) for case in root.iter("testcase") if case.find("failure") is not None}
    assert failed == {"p on CUDA.outputs", "p on CUDA.inner values"}
    assert sum(case.get("name") == "output y" for case in root.iter("testcase")) == 2


def test_what_is_told_and_does_not_count_fails_nothing() -> None:
    judged = certificate(equivalent=True)
    judged["inner"][0]["status"] = "differs"
    judged["outputs"][0] |= {"status": "within-tolerance", "tolerance": {"absolute": 1.0}, "excess": 0.5}
    root = check_schema(junit_xml([suite_of(of_certificate("p", judged))]))
    assert root.get("failures") == "0" and root.get("skipped") == "2"
