"""JUnit XML, which CI systems show as test results: a suite for each checked child, a case for each thing compared.

There is no standard; what is written here is what Jenkins, GitLab, GitHub's and Azure's readers have in common:
``testsuites > testsuite > properties?, testcase*, system-out?`` and ``testcase > (failure | error | skipped)?``, with
counts, seconds, and nothing in the text that XML 1.0 has no way to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

from onnxmorph.report.outcomes import Outcome

__all__ = ["Case", "Suite", "junit_xml", "suite_of"]

# What XML 1.0 cannot hold, even escaped: most control characters, surrogates, two non-characters.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One test case.

    Attributes:
        name: Of what was compared.
        group: Becomes the ``classname``, by which reports sort cases.
        result: ``passed``, ``failure`` (the answer is wrong), ``error`` (there is no answer) or ``skipped``.
        message: One line; empty for what passed.
        details: As many lines as it takes.
        seconds: Of wall-clock time.
    """

    name: str
    group: str
    result: Literal["passed", "failure", "error", "skipped"] = "passed"
    message: str = ""
    details: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Suite:
    """The cases of one child.

    Attributes:
        name: Of the pair, or the model.
        cases: In order.
        seconds: Of wall-clock time; the cases' own need not sum up to it.
        properties: What else is known, such as the provider that ran.
        file: The child's path, for reports that link to it.
        output: Text for people.
    """

    name: str
    cases: tuple[Case, ...]
    seconds: float = 0.0
    properties: Mapping[str, str] | None = None
    file: str = ""
    output: str = ""

    def count(self, result: str) -> int:
        """How many cases ended so."""
        return sum(case.result == result for case in self.cases)


def suite_of(outcome: Outcome) -> Suite:
    """One outcome as a suite.

    With a certificate: a case ``interface and runs``, one for each output and inner value that was compared, one for
    the planted faults, and all of them again for each further provider. Without: one case that says why there is none.
    """
    certificate = outcome.certificate
    if certificate is None:
        result: Literal["passed", "failure", "error", "skipped"]
        result = {"equivalent": "passed", "not equivalent": "failure", "skipped": "skipped"}.get(  # type: ignore[assignment]
            outcome.verdict, "error"
        )
        case = Case("check", outcome.name, result, outcome.reason, f"{outcome.verdict}: {outcome.reason}")
        return Suite(outcome.name, (case,), outcome.seconds, _paths(outcome), outcome.child)
    properties = _paths(outcome)
    for key in ("provider", "runtime", "precision", "inputs", "limit", "seed", "detectable_fault"):
        if certificate.get(key) is not None:
            properties[key] = str(certificate[key])
    if isinstance(proof := certificate.get("static"), Mapping):
        properties["proved_by_algebra"] = f"{proof.get('proved')} of {proof.get('of')} changed values"
    if certificate.get("tiers"):
        properties["tiers"] = ", ".join(map(str, certificate["tiers"]))
    warnings = "".join(f"warning: {warning}\n" for warning in certificate.get("warnings") or ())
    cases = tuple(_cases(outcome.name, certificate, outcome.reason, outcome.seconds))
    return Suite(outcome.name, cases, outcome.seconds, properties, outcome.child, warnings)


def _paths(outcome: Outcome) -> dict[str, str]:
    return {key: path for key, path in (("parent", outcome.parent), ("child", outcome.child)) if path}


def _cases(name: str, certificate: Mapping[str, Any], reason: str, seconds: float) -> Iterator[Case]:
    compared = [
        (kind, comparison)
        for kind, key in (("output", "outputs"), ("inner value", "inner"))
        for comparison in certificate.get(key) or ()
    ]
    others = {_title(other): other for other in certificate.get("also") or ()}
    failures = [
        str(failure)
        for failure in certificate.get("failures") or certificate.get("unproven") or ()
        if not str(failure).startswith(tuple(f"on {title}: " for title in others))
    ]
    wrong = bool(failures) or (certificate.get("equivalent") is not True and not others)
    named = {_failure_of(failures, kind, comparison) for kind, comparison in compared}
    rest = [failure for failure in failures if failure not in named]
    told = any(comparison.get("status") == "differs" for _, comparison in compared)
    if wrong and not told:
        message = failures[0] if failures else reason
        yield Case("interface and runs", name, "failure", message, "\n".join(rest or [message]), seconds)
    else:
        yield Case("interface and runs", name, seconds=seconds)
    for kind, comparison in compared:
        value, group = str(comparison.get("name", "")), f"{name}.{kind}s"
        status = str(comparison.get("status", ""))
        if status == "differs":
            message = _failure_of(failures, kind, comparison) or f"{kind} {value!r} differs"
            details = "\n".join([message, _numbers(comparison), *rest])
            # Where tolerances are the measure of the outputs, what inner values do is told and does not count.
            yield Case(f"{kind} {value}", group, "failure" if wrong else "skipped", message, details)
        elif status in ("nondeterministic", "not-compared"):
            yield Case(f"{kind} {value}", group, "skipped", str(comparison.get("reason") or status))
        else:
            yield Case(f"{kind} {value}", group)
    if certificate.get("faults"):
        seen = certificate.get("detectable_fault") is not None
        blind = "none of the planted faults was seen"
        yield Case("planted faults", f"{name}.faults", *(() if seen else ("skipped", blind)))
    for title, other in others.items():
        yield from _cases(f"{name} on {title}", other, "", float(other.get("seconds") or 0.0))


def _title(certificate: Mapping[str, Any]) -> str:
    return str(certificate.get("provider", "")).removesuffix("ExecutionProvider")


def _failure_of(failures: Sequence[str], kind: str, comparison: Mapping[str, Any]) -> str:
    start = f"{kind} {comparison.get('name', '')!r}"
    return next((failure for failure in failures if failure.startswith(start)), "")


def _numbers(comparison: Mapping[str, Any]) -> str:
    keys = (
        "max_abs",
        "max_rel",
        "noise_floor",
        "ratio",
        "channel_ratio",
        "channel",
        "worst_input",
        "tolerance",
        "excess",
    )
    return "\n".join(f"{key}: {comparison[key]}" for key in keys if comparison.get(key) is not None)


# -- XML --------------------------------------------------------------------------------------------------------------


def junit_xml(suites: Sequence[Suite], *, name: str = "onnxmorph", timestamp: str | None = None) -> str:
    """The document, ready to be written as UTF-8.

    Args:
        suites: In order.
        name: Of the whole.
        timestamp: When it began, as ``2026-01-31T12:00:00``, for every suite; ``None`` leaves it out.
    """
    lines = ['<?xml version="1.0" encoding="utf-8"?>']
    everything = tuple(case for suite in suites for case in suite.cases)
    seconds = sum(suite.seconds for suite in suites)
    lines.append(f"<testsuites{_counts(Suite(name, everything, seconds))}>")
    for suite in suites:
        stamp = f" timestamp={_quoted(timestamp)}" if timestamp else ""
        lines.append(f"  <testsuite{_counts(suite)}{stamp}>")
        if suite.properties:
            lines.append("    <properties>")
            lines += [
                f"      <property name={_quoted(key)} value={_quoted(value)}/>"
                for key, value in suite.properties.items()
            ]
            lines.append("    </properties>")
        lines += [_case(case, suite.file) for case in suite.cases]
        if suite.output:
            lines.append(f"    <system-out>{_text(suite.output)}</system-out>")
        lines.append("  </testsuite>")
    lines.append("</testsuites>")
    return "\n".join(lines) + "\n"


def _counts(suite: Suite) -> str:
    return (
        f' name={_quoted(suite.name)} tests="{len(suite.cases)}" failures="{suite.count("failure")}"'
        f' errors="{suite.count("error")}" skipped="{suite.count("skipped")}" time="{suite.seconds:.3f}"'
    )


def _case(case: Case, file: str) -> str:
    where = f" file={_quoted(file)}" if file else ""
    start = f'    <testcase classname={_quoted(case.group)} name={_quoted(case.name)} time="{case.seconds:.3f}"{where}'
    if case.result == "passed":
        return f"{start}/>"
    message = f" message={_quoted(' '.join(case.message.split()))}"
    if case.result == "skipped":
        return f"{start}>\n      <skipped{message}/>\n    </testcase>"
    kind = "not equivalent" if case.result == "failure" else "could not be checked"
    body = f"<{case.result}{message} type={_quoted(kind)}>{_text(case.details)}</{case.result}>"
    return f"{start}>\n      {body}\n    </testcase>"


def _text(text: str) -> str:
    return escape(_UNWRITABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _quoted(text: str) -> str:
    return quoteattr(_UNWRITABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
