"""xfuser's parallel VAE (DistVAE) behind TokenRing: pixels as the unmodified diffusers pipeline makes them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.hosts.xfuser import composition
from tests.hosts.xfuser.composition import Picture
from tests.hosts.xfuser.generation import Case
from tests.support.families import FAMILIES, Entry
from tests.support.ranks import RankPool

EXACT = 1e-5
# The small random VAE of Wan amplifies any difference of its latents, 750 to 5900 times as measured with one whole VAE.
# What attention's rounding leaves is 1.5e-4 then, and 1.3e-4 under xfuser's own Ring, with or without a sharded VAE;
# under Ulysses, which rounds as one process does, it is 0. The sharded decoder is held to EXACT on the same latents.
AMPLIFIED = 1e-3

ODD = {"height": 28, "width": 44, "text_tokens": 17}  # 7 x 11 tokens; 14 rows of latents
TILES = {"height": 64, "width": 96}  # 32 x 48 latents: tiles of 16 x 16 that overlap by a quarter, three by four


def decode(ranks: RankPool, case: Case, tiling: bool = False, tolerance: float = EXACT) -> Sequence[Picture]:
    """What each rank decoded, after its pixels have been compared."""
    pictures: list[Picture] = ranks.run(case.ranks, composition.decoded_in_parallel, case, tiling, timeout=300)
    errors = [picture.error for picture in pictures if picture.error is not None]
    print(f"{case}: {pictures}")
    # xfuser's own pipelines give the picture to one rank, the runner's to all.
    assert len(errors) == (1 if FAMILIES[case.family].entry is Entry.PIPELINE else case.ranks)
    assert max(errors) <= tolerance
    assert max(picture.vae_error for picture in pictures) <= EXACT
    assert min(picture.contrast for picture in pictures) > 0.1  # a grey picture would prove nothing
    return pictures


@pytest.mark.parametrize(
    "case",
    [
        Case("flux", tokenring=2),
        Case("flux-runner", tokenring=2),
        pytest.param(Case("flux", tokenring=3, inputs=ODD), marks=pytest.mark.matrix),
        pytest.param(Case("flux-runner", tokenring=3, inputs=ODD), marks=pytest.mark.matrix),
        pytest.param(Case("flux", tokenring=2, ulysses=2, inputs=ODD), marks=pytest.mark.matrix),
        pytest.param(Case("sd3", tokenring=2, cfg=True), marks=pytest.mark.matrix),
        pytest.param(Case("flux2", tokenring=2), marks=pytest.mark.matrix),
        pytest.param(Case("z-image", tokenring=2), marks=pytest.mark.matrix),
    ],
    ids=lambda case: f"{case.family}-{case.ranks}",
)
def test_each_rank_decodes_its_rows(ranks: RankPool, case: Case) -> None:
    pictures = decode(ranks, case)
    rows = [size[0] for picture in pictures for size in picture.decoded]
    assert len(rows) == case.ranks  # one pass on each rank
    assert sum(rows) == FAMILIES[case.family].inputs(**case.inputs)["height"] // 2  # the small VAEs shrink by two
    assert max(rows) - min(rows) <= 1
    assert {picture.adapters[1] for picture in pictures} == {"DecoderAdapter"}


def test_each_rank_decodes_its_tiles(ranks: RankPool) -> None:
    """Pixels of a tiled VAE, which differ from those of the whole VAE, as in one process."""
    pictures = decode(ranks, Case("flux-runner", tokenring=2, inputs=TILES), tiling=True)
    tiles = [len(picture.decoded) for picture in pictures]
    assert sum(tiles) == 3 * 4
    assert min(tiles) >= 1


@pytest.mark.parametrize(
    ("case", "adapters", "tolerance"),
    [
        (Case("qwen-image", tokenring=2), ("QwenImageEncoder3d", "QwenImageDecoderAdapter"), EXACT),
        pytest.param(
            Case("wan-i2v", tokenring=2),
            ("WanEncoderAdapter", "WanDecoderAdapter"),
            AMPLIFIED,
            marks=pytest.mark.matrix,
        ),
    ],
    ids=["qwen-image", "wan-i2v"],
)
def test_causal_vaes(ranks: RankPool, case: Case, adapters: tuple[str, str], tolerance: float) -> None:
    """VAEs that go through frames one after another; Wan's encodes its first frame on all ranks too."""
    for picture in decode(ranks, case, tolerance=tolerance):
        assert picture.adapters == adapters
        assert {rows for rows, _ in picture.decoded} == {8}  # of 16
