from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.hosts.layout import KeyLayout, active_layout, cut, key_layout, padding, set_layout


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


def test_the_active_layout_is_restored() -> None:
    outer, inner = (KeyLayout(torch.ones(1, 2, n, dtype=torch.bool)) for n in (3, 5))
    with key_layout(outer):
        with key_layout(None):
            assert active_layout() is None
            set_layout(inner)
            assert active_layout() is inner
        assert active_layout() is outer
    assert active_layout() is None
