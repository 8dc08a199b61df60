"""Requirements and version ranges, as far as this project's own metadata go."""

from __future__ import annotations

import pytest

from onnxmorph.doctor.declared import Requirement, parse_requirement, within


@pytest.mark.parametrize(
    ("version", "versions", "inside"),
    [
        ("1.23.2", ">=1.18,<2", True),
        ("1.9", ">=1.18,<2", False),
        ("2.0.0", ">=1.18,<2", False),
        ("1.18", ">=1.18,<2", True),
        ("1.18.0", "==1.18", True),
        ("1.27.3", ">=1.23,!=1.27.*,<2", False),
        ("1.27", ">=1.23,!=1.27.*,<2", False),
        ("1.28.0", ">=1.23,!=1.27.*,<2", True),
        ("1.26.9", "==1.26.*", True),
        ("1.4.9", "~=1.4.2", True),
        ("1.5.0", "~=1.4.2", False),
        ("1.4.1", "~=1.4.2", False),
        ("2.1.0.dev20251122", ">=2,<3", True),
        ("3", "<=3", True),
        ("3.0.1", ">3", True),
        ("1.0", "", True),
    ],
)
def test_ranges(version: str, versions: str, inside: bool) -> None:
    assert within(version, versions) is inside


def test_names_are_normalised_and_extras_of_a_name_left_out() -> None:
    assert parse_requirement("Onnx_IR[all] >=1.1,<2") == Requirement("onnx-ir", ">=1.1,<2", False)
    assert parse_requirement("click (>=8.1)") == Requirement("click", ">=8.1", False)
    assert parse_requirement("rich") == Requirement("rich", "", False)


def test_what_only_an_extra_asks_for_is_marked_so() -> None:
    assert parse_requirement('torch>=2.4; extra == "train"') == Requirement("torch", ">=2.4", True)


def test_markers_of_other_machines_leave_a_requirement_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert parse_requirement("a; sys_platform == 'linux'") is None
    assert parse_requirement("a; not (sys_platform == 'linux')") is not None
    assert parse_requirement("a; sys_platform == 'darwin' and platform_machine != 'x86_64'") is not None
    assert parse_requirement("a; sys_platform in 'linux win32'") is None
    assert parse_requirement("a; python_version < '3'") is not None  # beyond what is understood: taken as true
    assert parse_requirement("a; ][") is not None
