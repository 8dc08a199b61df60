"""What a model is fed with: one set of inputs, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Assignment", "Feeds", "InputSet"]

Feeds = dict[str, Any]
"""Arrays by input name; a list of arrays for a sequence."""

Assignment = dict[str, int]
"""Sizes by symbol."""


@dataclass
class InputSet:
    """One set of inputs and what it is: sizes of the symbols, distribution, or where real data came from."""

    feeds: Feeds
    description: str
    sizes: Assignment = field(default_factory=dict)
    distribution: str = "real"
