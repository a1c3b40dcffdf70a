"""What of xfuser TokenRing does not run in, for reasons that are upstream's; a test shows each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["PIPELINES_REFUSED", "RUNNERS_REFUSED", "Refused"]


@dataclass(frozen=True)
class Refused:
    """Why something is refused.

    Attributes:
        why: A clause.
        instead: What to use, as a sentence without its full stop.
    """

    why: str
    instead: str


_LINGBOT = Refused(
    "it needs the package lingbot_video, which is on no package index, so that nothing was compared",
    "Use ulysses_degree for it",
)
_VSA = Refused(
    "its VSA-H3 attention chooses blocks among the keys of the whole video and returns no log-sum-exp, by which "
    "results of several ranks are merged",
    "Use FastH3-Dense, or ulysses_degree for it",
)

RUNNERS_REFUSED: Mapping[str, Refused] = MappingProxyType(
    {
        "xFuserFastH3Model": _VSA,
        "xFuserFastH3V2Model": _VSA,
        "xFuserHunyuanvideo15SparseModel": Refused(
            "its attention is that of a kernel for sparse blocks, which needs the package flex_block_attn or AITER and "
            "returns no log-sum-exp, by which results of several ranks are merged",
            "Use Hunyuanvideo-1.5-Distilled, or ulysses_degree for it",
        ),
        "xFuserLingBotVideoDenseModel": _LINGBOT,
        "xFuserLingBotVideoMoEModel": _LINGBOT,
    }
)
"""By the classes of the `xdit` command."""

_SANA = Refused(
    "Sana's self-attention is linear: keys and values are summed up into one small matrix, so a ring has nothing to "
    "exchange",
    "Use ulysses_degree for it",
)

PIPELINES_REFUSED: Mapping[str, Refused] = MappingProxyType(
    {
        "SanaPAGPipeline": _SANA,
        "SanaPipeline": _SANA,
        "SanaSprintPipeline": _SANA,
        "StableDiffusionXLPipeline": Refused(
            "xfuser divides a U-Net by classifier-free guidance alone, and refuses to divide its sequence",
            "Use use_cfg_parallel for it",
        ),
    }
)
"""By diffusers' classes, of which xfuser has pipelines of its own."""
