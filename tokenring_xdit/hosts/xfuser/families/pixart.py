"""PixArt alpha and sigma."""

from __future__ import annotations

from tokenring_xdit.hosts.base import Pipeline
from tokenring_xdit.hosts.xfuser.family import OwnPipeline, Shares, TokenCut, XfuserFamily
from tokenring_xdit.model_shapes import ModelShape

__all__ = ["FAMILY"]

_PLAIN = ("AttnProcessor2_0", "FusedAttnProcessor2_0")


def _own(kind: str) -> OwnPipeline:
    return OwnPipeline(
        runs=f"PixArt{kind}Pipeline",
        module=f"pipeline_pixart_{kind.lower()}",
        name=f"xFuserPixArt{kind}Pipeline",
        shares=Shares.ROWS,
        guidance_of_one=False,
        stages=True,
    )


FAMILY = XfuserFamily(
    pipelines=(Pipeline(name="PixArtAlphaPipeline"), Pipeline(name="PixArtSigmaPipeline")),
    shapes={"pixart-sigma": ModelShape(16, 72, calls=28, text=0)},
    cut=TokenCut(
        transformer="PixArtTransformer2DModel",
        blocks=("transformer_blocks",),
        whole_again="norm_out",
        attention={"attn1": _PLAIN},
        other_attention={"attn2": _PLAIN},
    ),
    own=(_own("Alpha"), _own("Sigma")),
)
