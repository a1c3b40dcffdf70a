from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.attention import DeviceKeyMask
from tokenring_xdit.hosts.layout import KeyLayout, active_layout, cut, key_layout, padding, set_layout
from tokenring_xdit.hosts.running import watching_decisions


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(1, 40), min_size=1, max_size=3), st.data())
def test_real_keys_are_those_of_the_unsharded_sequences(
    ulysses: int, ring: int, lengths: list[int], data: st.DataObject
) -> None:
    """Lay named tokens out as xfuser does, and read back what the masks keep."""
    ranks = ulysses * ring
    hidden = data.draw(st.sets(st.tuples(st.integers(0, len(lengths) - 1), st.integers(0, 40))))
    segments, tokens = [], []
    for number, length in enumerate(lengths):
        real = torch.tensor([[(number, i) not in hidden for i in range(length)]])
        segments.append(cut(real, ranks))
        padded = [(number, i) for i in range(length)] + [None] * padding(length, ranks)
        shard = len(padded) // ranks
        tokens.append([padded[rank * shard : (rank + 1) * shard] for rank in range(ranks)])
    layout = KeyLayout.of_segments(*segments)
    kept = []
    for ring_rank in range(ring):
        held = [
            token
            for rank in range(ring_rank * ulysses, (ring_rank + 1) * ulysses)
            for segment in tokens
            for token in segment[rank]
        ]
        mask = layout.own(ring_rank, ulysses)
        names = torch.arange(len(held)).view(1, 1, -1, 1)
        chosen = names if mask is None else mask.select(names, names)[0]
        kept += [held[i] for i in chosen.flatten().tolist()]
    every = [(number, i) for number, length in enumerate(lengths) for i in range(length)]
    assert sorted(kept) == [token for token in every if token not in hidden]


def test_layouts_that_differ_in_one_token_have_other_keys() -> None:
    real = torch.ones(1, 2, 4, dtype=torch.bool)
    other = real.clone()
    other[0, 1, 3] = False
    assert KeyLayout(real).key == KeyLayout(real.clone()).key
    assert KeyLayout(real).key != KeyLayout(other).key


def test_calls_that_may_be_recorded_leave_computed_masks_on_the_device() -> None:
    real = torch.tensor([[[1, 1, 0], [0, 0, 0]]], dtype=torch.bool)
    k = torch.arange(3.0).view(1, 1, 3, 1)
    with watching_decisions() as decided:
        layout, read = KeyLayout(real, computed=True), KeyLayout(real)
        assert layout.on_device
        assert not read.on_device
        assert len(decided) == 1
        mask = layout.own(0, 1)
        assert isinstance(mask, DeviceKeyMask)
        assert mask.counted(k, k)[2].tolist() == [2]
        before = layout.key
        assert before == KeyLayout(~real, computed=True).key
        layout.read("somebody asks")
    assert decided[1:] == ["somebody asks"]
    assert layout.key == read.key != before
    mask = layout.own(0, 1)
    assert mask is not None
    assert mask.select(k, k)[0].flatten().tolist() == [0, 1]
    assert not KeyLayout(real, computed=True).on_device  # of a call that is made as it is


def test_the_active_layout_is_restored() -> None:
    outer, inner = (KeyLayout(torch.ones(1, 2, n, dtype=torch.bool)) for n in (3, 5))
    with key_layout(outer):
        with key_layout(None):
            assert active_layout() is None
            set_layout(inner)
            assert active_layout() is inner
        assert active_layout() is outer
    assert active_layout() is None


def test_joint_tokens_of_calls_that_may_be_recorded() -> None:
    """Their mask stays on the device as well, until somebody asks, and hides keys by itself then."""
    real, text = torch.ones(1, 2, 3, dtype=torch.bool), torch.tensor([[True, False, True]])
    k = torch.arange(3.0).view(1, 1, 3, 1)
    with watching_decisions() as decided:
        layout = KeyLayout(real, replicated_real=text, computed=True)
        assert not decided
        assert isinstance(layout.home, DeviceKeyMask)
        assert layout.home.counted(k, k)[2].tolist() == [2]
        layout.read("somebody asks")
    assert layout.home is not None
    assert not isinstance(layout.home, DeviceKeyMask)
    assert layout.home.select(k, k)[0].flatten().tolist() == [0, 2]
    assert layout.hides_keys
    assert not KeyLayout(real, replicated_real=text | True).hides_keys
