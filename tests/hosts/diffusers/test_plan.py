"""Where models are cut, and what of a sequence is whose."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.diffusers.cut import share
from tokenring_xdit.hosts.diffusers.family import DiffusersFamily, Gather, Split
from tokenring_xdit.hosts.diffusers.plan import named, plan_of


@pytest.mark.parametrize(("length", "ranks"), [(0, 3), (1, 3), (2, 3), (7, 3), (48, 2), (77, 8)])
def test_shares_are_the_whole_and_differ_by_one(length: int, ranks: int) -> None:
    parts = [share(length, ranks, rank) for rank in range(ranks)]
    assert [token for first, count in parts for token in range(first, first + count)] == list(range(length))
    assert max(count for _, count in parts) - min(count for _, count in parts) <= 1


def family(**traits: object) -> DiffusersFamily:
    return DiffusersFamily(pipelines=(), transformer="New", compared=("NewPipeline",), spread={"a": ("P",)}, **traits)  # type: ignore[arg-type]


def theirs(dim: int, dims: int) -> SimpleNamespace:
    return SimpleNamespace(split_dim=dim, expected_dims=dims)


def test_diffusers_plan_is_read() -> None:
    plan = {
        "": {"hidden_states": theirs(1, 3)},
        "blocks.*": {"rotary_emb": [theirs(0, 2), theirs(1, 4)]},
        "rope": {0: theirs(1, 4)},
        "proj_out": [SimpleNamespace(gather_dim=1)],
    }
    assert plan_of(type("New", (), {"_cp_plan": plan}), family()) == {
        "": {"hidden_states": Split(1, 3)},
        "blocks.*": {"rotary_emb": (Split(0, 2), Split(1, 4))},
        "rope": {0: Split(1, 4)},
        "proj_out": Gather(1),
    }


def test_a_record_comes_before_it() -> None:
    own = {"proj_out": Gather(2)}
    assert plan_of(type("New", (), {"_cp_plan": {}}), family(plan=own)) is own


def test_what_a_controlnet_brings_is_cut_too() -> None:
    """Beside what the model is given otherwise; what is no residual stays whole."""
    kind = type("New", (), {"_cp_plan": {"": {"hidden_states": theirs(1, 3)}}})
    control = {"samples": Split(1, 3), "scale": None}
    assert plan_of(kind, family(control=control)) == {"": {"hidden_states": Split(1, 3), "samples": Split(1, 3)}}
    assert plan_of(kind, family(control=control, plan={"proj_out": Gather(1)})) == {
        "": {"samples": Split(1, 3)},
        "proj_out": Gather(1),
    }


def test_without_any_it_is_refused() -> None:
    with pytest.raises(
        UnsupportedError, match=r"no plan of how to cut it any more: use diffusers 0.42, or host='xfuser'"
    ):
        plan_of(type("New", (), {}), family())


def test_modules_are_found_by_their_names() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"attn": nn.Identity()}) for _ in range(3)])})
    assert [name for name, _ in named(model, "blocks.*.attn")] == [f"blocks.{index}.attn" for index in range(3)]
    assert [name for name, _ in named(model, "blocks.1")] == ["blocks.1"]
    assert list(named(model, "")) == [("", model)]
    assert list(named(model, "blocks.*.attn2")) == []
