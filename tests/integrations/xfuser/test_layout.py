from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.integrations.xfuser.layout import ShardLayout, active_layout, shard_layout


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 60), st.integers(0, 20))
def test_real_keys_are_those_of_the_unsharded_sequence(ulysses: int, ring: int, image: int, text: int) -> None:
    """Lay the tokens out as xfuser does and read back what the layout keeps."""
    ranks = ulysses * ring
    layout = ShardLayout(ranks, image, text)
    padded = [*range(image), *[None] * layout.padding]
    assert len(padded) == ranks * layout.image_shard
    kept: list[object] = []
    for ring_rank in range(ring):
        keys: list[object] = []
        for rank in range(ring_rank * ulysses, (ring_rank + 1) * ulysses):
            keys += [("text", rank * layout.text_shard + i) for i in range(layout.text_shard)]
            keys += padded[rank * layout.image_shard : (rank + 1) * layout.image_shard]
        real = layout.real_keys(ring_rank, ulysses)
        kept += keys if real is None else [keys[i] for i in real]
    words = [] if text % ranks else [("text", i) for i in range(text)]
    assert sorted(kept, key=str) == sorted([*range(image), *words], key=str)
    assert layout.text_replicated == (text if text % ranks else 0)


def test_the_active_layout_is_restored() -> None:
    outer, inner = ShardLayout(2, 3, 4), ShardLayout(2, 5, 6)
    with shard_layout(outer):
        with shard_layout(inner):
            assert active_layout() is inner
        assert active_layout() is outer
    assert active_layout() is None
