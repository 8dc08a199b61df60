"""Operators with bodies. They are run as they stand in each step, so that the gradient follows what really ran."""

from __future__ import annotations

from typing import Any

import torch

from onnxmorph.grow.call import Call
from onnxmorph.grow.registry import operator

Tensor = torch.Tensor


@operator("If", pure=False, host=(0,))
def if_(call: Call, condition: Tensor, *captured: Any) -> tuple[Any, ...]:
    """One of two bodies."""
    branch = "then_branch" if bool(condition) else "else_branch"
    return tuple(call.body(branch, (), (condition, *captured)))


@operator("Loop", pure=False, host=(0, 1))
def loop(call: Call, *inputs: Any) -> tuple[Any, ...]:
    """A body repeated for a number of times, while a condition holds; its states go round, the rest is stacked."""
    trips, condition, *states = inputs[: call.explicit]
    go = True if condition is None else bool(condition)
    limit = None if trips is None else int(trips)
    stacks: list[list[Tensor]] = [[] for _ in range(call.outputs - len(states))]
    turn = 0
    while go and (limit is None or turn < limit):
        arguments = (torch.tensor(turn, dtype=torch.int64), torch.tensor(go), *states)
        results = call.body("body", arguments, inputs)
        go = bool(results[0])
        states = results[1 : 1 + len(states)]
        for stack, value in zip(stacks, results[1 + len(states) :], strict=True):
            stack.append(value)
        turn += 1
    stacked = []
    for place, stack in enumerate(stacks):
        stacked.append(torch.stack(stack) if stack else _nothing(call, place, len(states)))
    return (*states, *stacked)


def _nothing(call: Call, place: int, states: int) -> Tensor:
    """What a loop that never ran has stacked; its width is known from the file alone."""
    stacked = call.attributes["_stacked"][-(call.outputs - states) :]
    shape, dtype = stacked[place] if place < len(stacked) else ((), torch.float32)
    return torch.zeros((0, *shape), dtype=dtype, device=call.mode.device)


@operator("Scan", since=9, pure=False)
def scan(call: Call, *inputs: Any) -> tuple[Any, ...]:
    """A body run over slices of its inputs, with states that go round."""
    many = call.integer("num_scan_inputs")
    given = inputs[: call.explicit]
    states, sequences = list(given[: len(given) - many]), given[len(given) - many :]
    outputs = call.outputs - len(states)
    axes = call.attributes.get("scan_input_axes") or [0] * many
    backwards = call.attributes.get("scan_input_directions") or [0] * many
    out_axes = call.attributes.get("scan_output_axes") or [0] * outputs
    out_backwards = call.attributes.get("scan_output_directions") or [0] * outputs
    length = sequences[0].shape[axes[0]]
    stacks: list[list[Tensor]] = [[] for _ in range(outputs)]
    for turn in range(length):
        slices = [
            sequence.select(axis, length - 1 - turn if back else turn)
            for sequence, axis, back in zip(sequences, axes, backwards, strict=True)
        ]
        results = call.body("body", (*states, *slices), inputs)
        states = results[: len(states)]
        for stack, value in zip(stacks, results[len(states) :], strict=True):
            stack.append(value)
    stacked = [
        torch.stack(stack[::-1] if back else stack, axis) if stack else _nothing(call, place, len(states))
        for place, (stack, axis, back) in enumerate(zip(stacks, out_axes, out_backwards, strict=True))
    ]
    return (*states, *stacked)


@operator("Scan", until=8, pure=False)
def scan_by_sample(call: Call, *inputs: Any) -> tuple[Any, ...]:
    """Opset 8: sample by sample over a batch axis, each with a length of its own."""
    lengths, *given = inputs[: call.explicit]
    many = call.integer("num_scan_inputs")
    states, sequences = given[: len(given) - many], given[len(given) - many :]
    backwards = call.attributes.get("directions") or [0] * many
    batch, longest = sequences[0].shape[:2]
    rows: list[list[Tensor]] = []
    for sample in range(batch):
        length = longest if lengths is None else int(lengths[sample])
        current = [state[sample] for state in states]
        stacks: list[list[Tensor]] = [[] for _ in range(call.outputs - len(states))]
        for turn in range(length):
            slices = [
                sequence[sample, length - 1 - turn if back else turn]
                for sequence, back in zip(sequences, backwards, strict=True)
            ]
            results = call.body("body", (*current, *slices), inputs)
            current = results[: len(states)]
            for stack, value in zip(stacks, results[len(states) :], strict=True):
                stack.append(value)
        padded = []
        for stack in stacks:
            whole = torch.stack(stack)
            missing = whole.new_zeros((longest - length, *whole.shape[1:]))
            padded.append(torch.cat([whole, missing]))
        rows.append([*current, *padded])
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


@operator("SequenceMap", pure=False)
def sequence_map(call: Call, *inputs: Any) -> tuple[list[Any], ...]:
    """A body run on each member of lists; what is no list is the same each time."""
    given = inputs[: call.explicit]
    columns: list[list[Any]] = [[] for _ in range(call.outputs)]
    for place in range(len(given[0])):
        arguments = [value[place] if isinstance(value, list) else value for value in given]
        for column, value in zip(columns, call.body("body", arguments, inputs), strict=True):
            column.append(value)
    return tuple(columns)
