from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.graphs.forms import CallForm, Described, describe, tensors_replaced

CPU = torch.device("cpu")

Pair = namedtuple("Pair", "a b")

plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.0, -0.0, 1.0, 2.5]), st.text(max_size=2)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=1), inner, max_size=2)),
    max_leaves=4,
)


def look(**arguments: Any) -> Described:
    return describe(arguments, CPU)


def form(**arguments: Any) -> CallForm:
    return look(**arguments).form


@given(plain, plain)
def test_forms_are_equal_where_the_values_are_to_the_last_bit(one: Any, other: Any) -> None:
    same = repr(one) == repr(other)
    assert (form(x=one) == form(x=other)) == same
    assert (form(x=one).digest == form(x=other).digest) == same


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(2, 4),
        torch.zeros(2, 3, dtype=torch.bfloat16),
        torch.zeros(2, 3, 1),
        [torch.zeros(2, 3)],
        None,
    ],
    ids=["shape", "dtype", "dimensions", "in a list", "none"],
)
def test_other_shapes_and_dtypes_are_other_forms(other: Any) -> None:
    assert form(x=torch.zeros(2, 3)) != form(x=other)


def test_numbers_in_tensors_and_strides_are_no_part_of_it() -> None:
    assert form(x=torch.zeros(2, 3)) == form(x=torch.ones(3, 2).T)
    assert form(x=torch.zeros(2, 3)) == form(x=torch.zeros(1, 3).expand(2, 3))


def test_which_tensors_are_one_is_part_of_it() -> None:
    one, other = torch.zeros(3), torch.zeros(3)
    assert form(x=one, y=one) != form(x=one, y=other)
    assert form(x=one, y=other) == form(x=other, y=one)
    assert [len(look(x=one, y=[one]).tensors), len(look(x=one, y=[other]).tensors)] == [1, 2]


def test_what_differs_is_named() -> None:
    assert form(x=1, y=torch.zeros(2), z=3).difference(form(x=1, y=torch.zeros(3))) == ("y", "z")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "x is a object, of which nobody knows when it is another"),
        ({"scale": [lambda: 1]}, "x['scale'][0] is a function"),
        (torch.zeros(3, device="meta"), "x is on meta, and calls are captured on cpu"),
        (torch.eye(3).to_sparse(), "has no plain memory"),
    ],
)
def test_what_cannot_be_replayed_is_named(value: Any, says: str) -> None:
    assert says in (look(x=value).obstacle or "")


@given(plain)
def test_plain_values_are_no_obstacle(value: Any) -> None:
    assert look(x=value).obstacle is None


def test_tensors_are_replaced_in_containers_of_the_same_classes() -> None:
    def twice(tensor: torch.Tensor) -> torch.Tensor:
        return 2 * tensor

    one = torch.ones(1)
    value = [one, (one, "text"), {"a": one}, Pair(one, 1), Transformer2DModelOutput(sample=one)]
    first, second, third, fourth, fifth = tensors_replaced(value, twice)
    assert (first, second[0], third["a"], fourth.a, fifth.sample) == (2 * one,) * 5
    assert (type(second), type(third), type(fourth), type(fifth)) == (tuple, dict, Pair, Transformer2DModelOutput)
    assert isinstance(tensors_replaced(OrderedDict(a=one), twice), OrderedDict)
