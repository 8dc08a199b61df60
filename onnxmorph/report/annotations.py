"""Lines by which a GitHub workflow marks files: ``::error file=child.onnx,title=...::what is wrong``.

GitHub's runner reads them from what a step prints. It shows ten errors and ten warnings of a step; what is printed
first is shown.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnxmorph.report.outcomes import Outcome

__all__ = ["annotation", "github_annotations"]

_MOST = 10


def github_annotations(outcomes: Iterable[Outcome]) -> list[str]:
    """One error for each child that is not equivalent or could not be checked, one warning for each that says little.

    Args:
        outcomes: Each with the path of its child, relative to where the workflow runs; else no file is marked.
    """
    listed = list(outcomes)
    errors = [
        annotation("error", f"{outcome.name}: {outcome.verdict}", outcome.reason or outcome.verdict, outcome.child)
        for outcome in listed
        if outcome.exit_code
    ]
    warnings = [
        annotation("warning", f"{outcome.name}: {outcome.verdict}", "\n".join(map(str, found)), outcome.child)
        for outcome in listed
        if not outcome.exit_code and outcome.certificate and (found := outcome.certificate.get("warnings"))
    ]
    if len(errors) > _MOST:
        kept = _MOST - 1
        more = annotation("error", "onnxmorph", f"{len(errors) - kept} more are not equivalent or could not be checked")
        errors = [*errors[:kept], more]
    return [*errors, *warnings[:_MOST]]


def annotation(level: str, title: str, message: str, file: str = "") -> str:
    """One line, in which nothing of title, message and file can be read as anything else.

    Args:
        level: ``error``, ``warning`` or ``notice``.
        title: Its headline.
        message: May hold several lines.
        file: Path from the repository's root.
    """
    properties = ([f"file={_property(file)}"] if file else []) + [f"title={_property(title)}"]
    return f"::{level} {','.join(properties)}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
