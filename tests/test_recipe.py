"""Recipes: what cannot be read names its place; steps take the layers they say; what broke a child is found."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, Refusal, SelectionError
from onnxmorph.graph.layers import layers
from onnxmorph.morphs import PLANNERS, plan_activate, plan_deepen, plan_kernel
from onnxmorph.plan import Change, Plan, apply
from onnxmorph.recipe import RecipeError, Where, carry_out, first_wrong, parse_recipe, read_recipe
from tests.morphs.oracle import assert_same, from_proto
from tests.zoo_graphs import build

MODELS = Path(__file__).resolve().parents[1] / "models"


@pytest.fixture(scope="module")
def parent() -> ir.Model:
    return files.load(MODELS / "digits_cnn.onnx")


def _step(text: str, head: str = "") -> str:
    return f"{head}\n[[step]]\n{text}\n"


# -- what cannot be read ----------------------------------------------------------------------------------------------

UNREADABLE = {
    "no toml": ("seed = ", ["r.toml", "not TOML", "Invalid value"]),
    "nothing": ("", ["r.toml", "no steps", "[[step]]"]),
    "a step that is no table": ("step = 3", ["r.toml", "no steps"]),
    "one step written as a table": ("[step]\nmorph = 'kernel'", ["r.toml", "[[step]]"]),
    "an empty list": ("step = []", ["no steps"]),
    "a key of the recipe": (_step("morph = 'kernel'", "sed = 3"), ["r.toml", "'sed'", "did you mean 'seed'"]),
    "a seed that is no number": (_step("morph = 'kernel'", "seed = '3'"), ["seed", "whole number", "'3'"]),
    "a seed that is true": (_step("morph = 'kernel'", "seed = true"), ["seed", "whole number"]),
    "no morph": (_step("layers = 'a'"), ["r.toml", "step 1", "no morph None", "deepen"]),
    "another morph": (_step("morph = 'deepn'"), ["step 1", "'deepn'", "did you mean 'deepen'"]),
    "a morph that is no text": (_step("morph = ['kernel']"), ["step 1", "no morph"]),
    "the second step": (
        "[[step]]\nmorph = 'kernel'\nto = 5\n[[step]]\nmorph = 'widen'\nfil = 'pair'",
        ["step 2 (widen)", "'fil'", "did you mean 'fill'"],
    ),
    "an option of another morph": (_step("morph = 'kernel'\nwidth = 3"), ["step 1 (kernel)", "no option 'width'"]),
    "a selector that is no text": (_step("morph = 'kernel'\nlayers = 3"), ["step 1", "layers", "not 3"]),
    "no selectors": (_step("morph = 'kernel'\nlayers = []"), ["layers"]),
    "a condition": (_step("morph = 'kernel'\nwhere = { min_outs = 3 }"), ["'min_outs'", "did you mean 'min_out'"]),
    "conditions that are no table": (_step("morph = 'kernel'\nwhere = 'Conv'"), ["where", "table", "'Conv'"]),
    "a bound that is no number": (_step("morph = 'kernel'\nwhere = { min_out = '8' }"), ["min_out", "whole number"]),
    "a negative bound": (_step("morph = 'kernel'\nwhere = { last = -1 }"), ["last", "-1"]),
    "an op that is no text": (_step("morph = 'kernel'\nwhere = { op = 3 }"), ["op", "text"]),
    "a position that is no number": (_step("morph = 'kernel'\nwhere = { position = 'last' }"), ["position"]),
    "a kernel that is no size": (_step("morph = 'kernel'\nto = 1.5"), ["to", "3x5", "1.5"]),
    "a kernel in where": (_step("morph = 'kernel'\nwhere = { kernel = 1.5 }"), ["kernel", "1.5"]),
    "a kernel of words in where": (_step("morph = 'kernel'\nwhere = { kernel = 'big' }"), ["kernel", "'big'"]),
    "a mode": (_step("morph = 'kernel'\non_refusal = 'ignore'"), ["on_refusal", "'fail' or 'skip'", "'ignore'"]),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_names_file_step_and_key_in_one_line(case: str) -> None:
    text, said = UNREADABLE[case]
    with pytest.raises(RecipeError) as raised:
        parse_recipe(text, name="r.toml")
    message = str(raised.value)
    assert message.startswith("r.toml: ") and "\n" not in message
    assert all(words in message for words in said), message
    assert raised.value.exit_code == 2


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_text_is_more_than_a_recipe_error(text: str) -> None:
    for recipe in (text, _step(f"morph = 'kernel'\nlayers = {text}")):
        with contextlib.suppress(RecipeError):
            parse_recipe(recipe)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["morph", "layers", "where", "on_refusal", "to", "width", "seed", "method", "by", "last"]),
        st.one_of(
            st.integers(-3, 9), st.booleans(), st.sampled_from(["'x2'", "'kernel'", "[]", "{}", "[1, 'a']", "1.5"])
        ),
    )
)
def test_values_of_any_kind_are_read_or_named(entries: dict[str, Any]) -> None:
    lines = [f"{key} = {str(value).lower() if isinstance(value, bool) else value}" for key, value in entries.items()]
    kept = [line for line in lines if not line.startswith("morph")]
    for morph in PLANNERS:
        with contextlib.suppress(RecipeError):
            parse_recipe(_step("\n".join([*kept, f"morph = '{morph}'"])))


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.toml: cannot be read"):
        read_recipe(tmp_path / "nowhere.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"bytes\.toml: cannot be read: not UTF-8"):
        read_recipe(tmp_path / "bytes.toml")


def test_the_seed_of_the_recipe_is_every_steps_unless_it_has_its_own() -> None:
    recipe = parse_recipe(
        "seed = 7\n[[step]]\nmorph = 'deepen'\n[[step]]\nmorph = 'deepen'\nseed = 1\n[[step]]\nmorph = 'kernel'"
    )
    assert [step.options.get("seed") for step in recipe.steps] == [7, 1, None]
    assert [str(step) for step in recipe.steps] == ["step 1 (deepen)", "step 2 (deepen)", "step 3 (kernel)"]


def test_sizes_and_factors_of_the_wrong_kind_say_what_is_wanted() -> None:
    with pytest.raises(RecipeError, match=r"step 1 \(widen\): to must be a whole number, not '5x5'"):
        parse_recipe(_step("morph = 'widen'\nto = '5x5'"))
    with pytest.raises(RecipeError, match=r"by must be a number or a text, not \[2\]"):
        parse_recipe(_step("morph = 'widen'\nby = [2]"))
    with pytest.raises(RecipeError, match=r"interface must be true or false, not 1"):
        parse_recipe(_step("morph = 'widen'\ninterface = 1"))


@pytest.mark.parametrize(("written", "read"), [("5", 5), ("'5x3'", (5, 3)), ("[5, 3]", (5, 3)), ("'5'", (5,))])
def test_kernels_are_written_in_three_ways(written: str, read: object) -> None:
    assert parse_recipe(_step(f"morph = 'kernel'\nto = {written}")).steps[0].options["to"] == read


# -- which layers -----------------------------------------------------------------------------------------------------

CHOSEN = {
    '{ op = "conv" }': ["conv1", "conv2", "conv3"],
    '{ op = "Gemm" }': ["classifier"],
    '{ kernel = "3x3" }': ["conv1", "conv2", "conv3"],
    "{ kernel = [3, 3], last = 2 }": ["conv2", "conv3"],
    "{ min_out = 24 }": ["conv2", "conv3"],
    "{ min_out = 24, max_out = 24 }": ["conv2"],
    "{ min_in = 16, max_in = 24 }": ["conv2", "conv3"],
    '{ activation = "relu", first = 1 }': ["conv1"],
    '{ activation = "none" }': ["classifier"],
    "{ position = 1 }": ["conv2"],
    "{ position = [-1, 0, 9] }": ["classifier", "conv1"],
    "{ first = 3, last = 1 }": ["conv3"],
    "{ last = 99 }": ["conv1", "conv2", "conv3", "classifier"],
    '{ op = "LSTM" }': [],
    "{ first = 0 }": [],
    "{ last = 0 }": [],
}


@pytest.mark.parametrize("conditions", CHOSEN)
def test_conditions_choose_layers(parent: ir.Model, conditions: str) -> None:
    (step,) = parse_recipe(_step(f"morph = 'kernel'\nwhere = {conditions}")).steps
    chosen = step.where.choose(layers(parent))
    assert [layer.label.rpartition(".")[2] for layer in chosen] == CHOSEN[conditions]


def test_no_condition_chooses_all(parent: ir.Model) -> None:
    found = layers(parent)
    assert Where().choose(found) == found


# -- carrying out -----------------------------------------------------------------------------------------------------


def test_steps_see_what_the_steps_before_have_made(parent: ir.Model) -> None:
    recipe = parse_recipe(
        "[[step]]\nmorph = 'deepen'\nlayers = 'conv1'\nmethod = 'identity'\n"
        "[[step]]\nmorph = 'kernel'\nlayers = ['features.conv1.1', 'conv2']\nto = 5\n"
    )
    child = carry_out(parent, recipe)
    assert [plan.morph for plan in child.plans] == ["deepen", "kernel", "kernel"]
    assert {layer.label: layer.kernel for layer in layers(child.model)}["features.conv1.1"] == (5, 5)
    assert [record["morph"] for record in files.records(child.model)] == ["deepen", "kernel", "kernel"]


def test_a_selector_and_a_condition_that_leave_nothing_are_named(parent: ir.Model) -> None:
    with pytest.raises(RecipeError, match=r"step 1 \(kernel\) selects no layer"):
        carry_out(parent, parse_recipe(_step("morph = 'kernel'\nto = 5\nwhere = { min_out = 9999 }")))
    with pytest.raises(SelectionError, match="conv9"):
        carry_out(parent, parse_recipe(_step("morph = 'kernel'\nto = 5\nlayers = 'conv9'")))


def test_a_refusal_names_its_step_and_ends_the_recipe(parent: ir.Model) -> None:
    before = files.content_hash(parent)
    with pytest.raises(Refusal, match=r"^step 2 \(kernel\): .*Gemm, which has no kernel axes") as refused:
        carry_out(
            parent,
            parse_recipe(
                "[[step]]\nmorph='deepen'\nlayers='conv1'\n[[step]]\nmorph='kernel'\nlayers='classifier'\nto=5"
            ),
        )
    assert refused.value.code == "no-kernel"
    assert files.content_hash(parent) == before


def test_a_refusal_that_may_be_skipped_is_noted_and_the_others_are_done(parent: ir.Model) -> None:
    child = carry_out(parent, parse_recipe(_step("morph = 'kernel'\nto = 5\non_refusal = 'skip'")))
    assert len(child.plans) == 3
    (note,) = child.notes
    assert note.startswith("step 1 (kernel) skipped ") and "no kernel axes" in note


def test_a_step_that_every_layer_refuses_is_refused_even_where_skipping_is_allowed(parent: ir.Model) -> None:
    text = _step("morph = 'kernel'\nto = 5\non_refusal = 'skip'\nlayers = 'classifier'")
    with pytest.raises(Refusal, match="every layer it selects refuses") as refused:
        carry_out(parent, parse_recipe(text))
    assert refused.value.code == "all-refused"


@pytest.mark.parametrize(
    "options",
    [
        "method = 3",
        "kernel = 'wide'",
        "width = 'wide'",
        "width = [3]",
        "activation = 3",
        "seed = 'a'",
        "method = 'best'",
    ],
)
def test_options_of_the_wrong_kind_are_usage_errors(parent: ir.Model, options: str) -> None:
    key = options.split(maxsplit=1)[0]
    with pytest.raises(SelectionError, match=rf"step 1 \(deepen\): {key} must be|no method 'best'|no width 'wide'"):
        carry_out(parent, parse_recipe(_step(f"morph = 'deepen'\nlayers = 'conv1'\n{options}")))


def test_blocks_are_copied_by_a_recipe() -> None:
    proto = build("topology/residual")
    child = carry_out(from_proto(proto), parse_recipe(_step("morph = 'duplicate'\non_refusal = 'skip'")))
    assert child.plans
    assert_same(proto, child.model)


# -- what broke it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Break(Plan):
    """No morph: moves one weight."""

    morph: ClassVar[str] = "break"

    def options(self) -> dict[str, Any]:
        return {}

    def describe(self) -> str:
        return "break"

    def edit(self, child: ir.Model) -> Change:
        value = child.graph.initializers["classifier.bias"]
        assert value.const_value is not None
        value.const_value = ir.tensor(np.array(value.const_value.numpy()) + np.float32(1), name=value.name)
        return Change()


@dataclass(frozen=True)
class Refuse(Break):
    def edit(self, child: ir.Model) -> Change:
        raise Refusal("not here")


def _unbroken(parent: ir.Model, child: ir.Model) -> bool:
    one, two = (model.graph.initializers["classifier.bias"].const_value for model in (parent, child))
    assert one is not None and two is not None
    return bool(np.array_equal(one.numpy(), two.numpy()))


@pytest.mark.parametrize("many", [1, 2, 3, 5, 6])
def test_the_plan_that_broke_a_child_is_found(parent: ir.Model, many: int) -> None:
    good: list[Plan] = [plan_deepen(parent, "conv1", method="identity"), plan_kernel(parent, "conv2", to=5)]
    good += [plan_kernel(parent, "conv3", to=size) for size in (5, 7)] + [
        plan_deepen(parent, "classifier", method="residual")
    ]
    good += plan_activate(parent, "conv2")
    for place in range(many):
        plans = [*good[:place], Break(), *good[place : many - 1]][:many]
        calls = []

        def equivalent(child: ir.Model, calls: list[int] = calls) -> bool:
            calls.append(1)
            return _unbroken(parent, child)

        assert first_wrong(parent, plans, equivalent) == place
        assert len(calls) <= np.ceil(np.log2(many)) + (place == many - 1)


def test_a_child_that_is_right_after_all_has_no_broken_plan(parent: ir.Model) -> None:
    plans = [plan_kernel(parent, "conv2", to=5), plan_kernel(parent, "conv3", to=5)]
    assert first_wrong(parent, plans, lambda child: _unbroken(parent, child)) is None


def test_plans_that_cannot_be_carried_out_again_are_an_error(parent: ir.Model) -> None:
    with pytest.raises(ModelError, match="cannot be carried out again: not here"):
        first_wrong(parent, [Refuse()], lambda child: True)


def test_a_recipes_plans_make_the_same_child_in_one_go(parent: ir.Model) -> None:
    recipe = parse_recipe("[[step]]\nmorph='deepen'\nlayers='conv1'\n[[step]]\nmorph='widen'\nlayers='conv2'\nby=1.5")
    child = carry_out(parent, recipe)
    assert files.content_hash(apply(parent, child.plans).model) == files.content_hash(child.model)


# -- skips ------------------------------------------------------------------------------------------------------------

UNREADABLE_SKIPS = {
    "no ends": ("morph = 'skip'", ['from = "LAYER"']),
    "one end": ("morph = 'skip'\nfrom = 'conv1'", ['to = "LAYER"']),
    "an end that is no text": ("morph = 'skip'\nfrom = 'conv1'\nto = 3", ['to = "LAYER"']),
    "layers": ("morph = 'skip'\nfrom = 'conv1'\nto = 'conv3'\nlayers = '*'", ["no option 'layers'"]),
    "source": ("morph = 'skip'\nfrom = 'conv1'\ntarget = 'conv3'", ["no option 'target'"]),
    "a mode that is no text": ("morph = 'skip'\nfrom = 'conv1'\nto = 'conv3'\nmode = 3", ["mode must be a text"]),
}


@pytest.mark.parametrize("case", UNREADABLE_SKIPS)
def test_a_skip_that_cannot_be_read_says_what_it_wants(case: str) -> None:
    text, said = UNREADABLE_SKIPS[case]
    with pytest.raises(RecipeError) as raised:
        parse_recipe(_step(text), name="r.toml")
    assert all(words in str(raised.value) for words in ["r.toml: step 1 (skip): ", *said])


@pytest.mark.parametrize("mode", ["add", "concat"])
def test_a_skip_is_a_step_like_others(parent: ir.Model, mode: str) -> None:
    text = _step(f"morph = 'skip'\nfrom = 'conv1'\nto = 'conv3'\nmode = '{mode}'") + _step("morph = 'kernel'\nto = 5")
    text = text.replace("to = 5", "to = 5\nlayers = 'conv2'")
    child = carry_out(parent, parse_recipe(text))
    assert [plan.morph for plan in child.plans] == ["skip", "kernel"]
    assert child.plans[0].options()["mode"] == mode
    assert_same(onnx.load(MODELS / "digits_cnn.onnx"), child.model)


def test_a_skip_that_refuses_fails_or_is_passed_over(parent: ir.Model) -> None:
    text = _step("morph = 'skip'\nfrom = 'conv3'\nto = 'conv1'")
    with pytest.raises(Refusal, match=r"step 1 \(skip\): "):
        carry_out(parent, parse_recipe(text))
    child = carry_out(parent, parse_recipe(text + "on_refusal = 'skip'"))
    assert not child.plans and "step 1 (skip) passed over" in child.notes[0]
    with pytest.raises(RecipeError, match=r"step 1 \(skip\): .*conv9"):
        carry_out(parent, parse_recipe(_step("morph = 'skip'\nfrom = 'conv9'\nto = 'conv1'")))
