"""What xfuser 0.7.0 gets wrong for Wan 2.1 VACE."""

from __future__ import annotations

from typing import Any

from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import patches_layout, replace_forward, under_layout

__all__ = ["HOOKS"]


def leave_padding_out(vace: Any) -> None:
    """Keep padding out of the keys of both sequences, that of the video and that of what controls it.

    xfuser 0.7.0: ``xFuserWanVACETransformer3DWrapper.forward`` pads both to a multiple of the ranks and attends the
    padding as keys.
    """

    def make(original: Any) -> Any:
        return under_layout(original, patches_layout)

    replace_forward(vace.xFuserWanVACETransformer3DWrapper, make)


HOOKS = {TRANSFORMERS + "transformer_wan_vace": leave_padding_out}
