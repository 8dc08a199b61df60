"""Declared dependencies: reading one line of a package's metadata, and whether a version lies in the range it gives.

The full language of markers and versions belongs to the package ``packaging``, which a broken installation may lack;
this is the part of it that the project's own metadata use.
"""

from __future__ import annotations

import ast
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Requirement", "parse_requirement", "within"]


@dataclass(frozen=True)
class Requirement:
    """One declared dependency: its name, its range such as ``>=2,<3``, and whether only an extra asks for it."""

    name: str
    versions: str
    extra: bool


def parse_requirement(line: str) -> Requirement | None:
    """One line of ``Requires-Dist``; ``None`` where its marker says that it is not for this machine.

    Markers may use ``==``, ``!=``, ``in`` and the Boolean operators on ``sys_platform``, ``platform_machine``,
    ``platform_system``, ``os_name`` and ``extra``. A marker beyond that counts as true.
    """
    head, _, marker = line.partition(";")
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*\(?([^)]*)\)?\s*$", head)
    if match is None:
        return None
    names = {
        "sys_platform": sys.platform,
        "platform_machine": platform.machine(),
        "platform_system": platform.system(),
        "os_name": os.name,
    }
    extra = bool(re.search(r"\bextra\s*==", marker))
    applies = extra or not marker.strip() or _holds(marker.strip(), names)
    return Requirement(re.sub(r"[-_.]+", "-", match[1]).lower(), match[3].strip(), extra) if applies else None


def _holds(marker: str, names: Mapping[str, str]) -> bool:
    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return names[node.id]
            case ast.BoolOp():
                operands = [value(operand) for operand in node.values]
                return all(operands) if isinstance(node.op, ast.And) else any(operands)
            case ast.UnaryOp(op=ast.Not()):
                return not value(node.operand)
            case ast.Compare(ops=[ast.Eq()]):
                return value(node.left) == value(node.comparators[0])
            case ast.Compare(ops=[ast.NotEq()]):
                return value(node.left) != value(node.comparators[0])
            case ast.Compare(ops=[ast.In()]):
                return value(node.left) in value(node.comparators[0])
        raise KeyError(ast.dump(node))

    try:
        return bool(value(ast.parse(marker, mode="eval").body))
    except (SyntaxError, KeyError, TypeError):
        return True


def within(version: str, versions: str) -> bool:
    """Whether a version lies in a range such as ``>=1.23,!=1.27.*,<2``; of a version only its release numbers count."""
    release = _release(version)
    for clause in filter(None, (clause.strip() for clause in versions.split(","))):
        match = re.fullmatch(r"(>=|<=|==|!=|<|>|~=)\s*([0-9.]+?)(\.\*)?", clause)
        if match is None:
            continue
        operator, bound, prefix = match[1], _release(match[2]), bool(match[3])
        length = len(bound) if prefix else max(len(bound), len(release))
        have = (release + (0,) * length)[:length]
        want = (bound + (0,) * length)[:length]
        holds = {
            ">=": have >= want,
            "<=": have <= want,
            "==": have == want,
            "!=": have != want,
            "<": have < want,
            ">": have > want,
            "~=": have >= want and have[: len(bound) - 1] == bound[:-1],
        }[operator]
        if not holds:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match[1].split(".")) if match else ()
