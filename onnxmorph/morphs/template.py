"""The notation of NM for subnets, read into factors; errors point into the text.

``(3:64)`` is a 3x3 convolution with 64 outputs, ``(3:64x4)`` one with 4 x 64, ``(3x5:64)`` a 3x5 one, ``[...]x2``
what stands in brackets twice, ``|`` between stacked paths whose outputs add up. After the width, by commas: an
activation (``relu``, ``prelu``, ``gelu`` ..., or ``none``), ``bn`` for a batch norm before it, and ``mirror`` or
``netmorph`` for how the gap after the factor is made exact::

    (3:64x4,relu,bn)(1:64)
    [(3:32x2)(1:32)]x2(1:64)
    (3:64x2)(1:64)|(1:64)
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxmorph.errors import SelectionError

__all__ = ["Template", "TemplateError", "TemplateFactor", "parse_template"]

_MOST_FACTORS = 64
_GAPS = ("mirror", "netmorph")


class TemplateError(SelectionError):
    """The text is not a template; the message shows it with a mark before the first character that is wrong.

    Attributes:
        text: As typed.
        at: Place of that character, from 0.
        problem: What is wrong.
        pointed: The text with a caret in a second line, for terminals.
    """

    def __init__(self, text: str, at: int, problem: str) -> None:
        super().__init__(f"{problem}, at character {at + 1}: '{text[:at]} >>> {text[at:]}'")
        self.text, self.at, self.problem = text, at, problem
        self.pointed = f"  {text}\n  {' ' * at}^"


@dataclass(frozen=True)
class TemplateFactor:
    """One layer of a template.

    Attributes:
        kernel: One size, for all axes, or one per axis.
        width: Output channels.
        activation: Name of the activation after it; ``None`` leaves the choice to the morph, ``"none"`` means linear.
        batch_norm: A batch norm stands between the factor and its activation.
        gap: ``mirror``, ``netmorph`` or ``None`` (the morph chooses).
        at: Where the factor begins in the text.
    """

    kernel: tuple[int, ...]
    width: int
    activation: str | None = None
    batch_norm: bool = False
    gap: str | None = None
    at: int = 0


@dataclass(frozen=True)
class Template:
    """Stacked paths, each a sequence of factors, first applied first."""

    text: str
    paths: tuple[tuple[TemplateFactor, ...], ...]


def parse_template(text: str) -> Template:
    """Read a template.

    Raises:
        TemplateError: With the place in ``text`` where it stops making sense.
    """
    reader = _Reader(text)
    paths = [reader.path()]
    while reader.take("|"):
        paths.append(reader.path())
    if not reader.done():
        raise reader.error(f"{reader.here()!r} where a '(', a '[' or a '|' could stand")
    return Template(text, tuple(paths))


class _Reader:
    """Recursive descent over the text; ``at`` is the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def error(self, problem: str, at: int | None = None) -> TemplateError:
        return TemplateError(self.text, self.at if at is None else at, problem)

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def done(self) -> bool:
        self.skip()
        return self.at == len(self.text)

    def here(self) -> str:
        return self.text[self.at] if not self.done() else "end of the text"

    def take(self, character: str) -> bool:
        self.skip()
        if self.text.startswith(character, self.at):
            self.at += len(character)
            return True
        return False

    def expect(self, character: str, what: str) -> None:
        if not self.take(character):
            raise self.error(f"expected {character!r} {what}, found {self.here()!r}")

    def number(self, what: str) -> int:
        self.skip()
        start = self.at
        while self.at < len(self.text) and self.text[self.at] in "0123456789":
            self.at += 1
        if start == self.at:
            raise self.error(f"expected {what}, found {self.here()!r}")
        if self.at - start > 7 or int(self.text[start : self.at]) == 0:
            raise self.error(f"{self.text[start : self.at]} is no {what}", start)
        return int(self.text[start : self.at])

    def word(self) -> str:
        self.skip()
        start = self.at
        while self.at < len(self.text) and (self.text[self.at].isalnum() or self.text[self.at] in "_-"):
            self.at += 1
        if start == self.at:
            raise self.error(f"expected an activation, 'bn', 'mirror' or 'netmorph', found {self.here()!r}")
        return self.text[start : self.at].lower()

    def path(self, depth: int = 0) -> tuple[TemplateFactor, ...]:
        factors: list[TemplateFactor] = []
        while True:
            self.skip()
            start = self.at
            if self.take("("):
                factors.append(self.factor(start))
            elif self.take("["):
                if depth == 8:
                    raise self.error("brackets nest too deep", start)
                inner = self.path(depth + 1)
                self.expect("]", "to close the bracket")
                factors.extend(inner * (self.number("number of repeats") if self.take("x") else 1))
            else:
                break
            if len(factors) > _MOST_FACTORS:
                raise self.error(f"more than {_MOST_FACTORS} layers in one path", start)
        if not factors:
            raise self.error(f"expected '(' such as in (3:64), found {self.here()!r}")
        return tuple(factors)

    def factor(self, start: int) -> TemplateFactor:
        kernel = [self.number("kernel size")]
        while self.take("x"):
            kernel.append(self.number("kernel size"))
        self.expect(":", "between kernel and width")
        width = self.number("number of outputs")
        if self.take("x"):
            width *= self.number("multiple of the outputs")
        activation: str | None = None
        batch_norm = False
        gap: str | None = None
        while self.take(","):
            self.skip()
            at = self.at
            word = self.word()
            if word == "bn":
                batch_norm = True
            elif word in _GAPS:
                if gap is not None:
                    raise self.error(f"{word!r} after {gap!r}: one of them", at)
                gap = word
            elif activation is None:
                activation = word
            else:
                raise self.error(f"a second activation {word!r} after {activation!r}", at)
        self.expect(")", "to close the layer")
        return TemplateFactor(tuple(kernel), width, activation, batch_norm, gap, start)
