"""What xfuser 0.7.0 gets wrong for LTX-2, and is refused."""

from __future__ import annotations

from typing import Any

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import replace_forward, sequence_parallel_ranks, wanted

__all__ = ["HOOKS"]


def refuse_padding(ltx2: Any) -> None:
    """Refuse sizes of LTX-2 that xfuser has to pad.

    xfuser 0.7.0 attends the padding, also where sound attends to keys gathered from all ranks, which no
    ring sees and no repair reaches yet.
    """

    def make(original: Any) -> Any:
        def forward(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            ranks, tokens = sequence_parallel_ranks(), hidden_states.shape[1]
            if wanted() and tokens % ranks:
                raise UnsupportedError(
                    f"LTX-2 with {tokens} video tokens cannot be cut over {ranks} ranks: xfuser would attend "
                    f"the padding. Use a size and a number of frames whose tokens are a multiple of {ranks}, "
                    "or another degree"
                )
            return original(self, hidden_states, *args, **kwargs)

        return forward

    replace_forward(ltx2.xFuserLTX2VideoTransformer3DWrapper, make)


HOOKS = {TRANSFORMERS + "transformer_ltx2": refuse_padding}
