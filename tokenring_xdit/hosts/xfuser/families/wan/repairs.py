"""What xfuser 0.7.0 gets wrong for Wan 2.x."""

from __future__ import annotations

from typing import Any

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import patches_layout, replace_forward, under_layout, wanted

__all__ = ["HOOKS"]

_WAN_TEXT_TOKENS = 512


def leave_padding_out(wan: Any) -> None:
    """Keep padding out of the keys.

    xfuser 0.7.0: ``xFuserWanTransformer3DWrapper.forward`` pads the tokens to a multiple of the ranks
    and attends the padding as keys (5.5e-3 off).
    """

    def make(original: Any) -> Any:
        return under_layout(original, patches_layout)

    replace_forward(wan.xFuserWanTransformer3DWrapper, make)


def refuse_short_text_beside_a_picture(wan: Any) -> None:
    """Refuse Wan's image-to-video with fewer text tokens than Wan takes for granted.

    diffusers and xfuser find the picture's tokens as all but the last 512; with fewer of text there are none, over
    which diffusers attends nothing and the kernel of a CPU ends the process (division by zero).
    """

    def make(original: Any) -> Any:
        def forward(
            self: Any,
            hidden_states: Any,
            timestep: Any,
            encoder_hidden_states: Any,
            encoder_hidden_states_image: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            tokens = encoder_hidden_states.shape[1]
            if wanted() and encoder_hidden_states_image is not None and tokens != _WAN_TEXT_TOKENS:
                raise UnsupportedError(
                    f"max_sequence_length={tokens} was asked for, but Wan tells a picture's tokens from the text's by "
                    f"the number {_WAN_TEXT_TOKENS}: use max_sequence_length={_WAN_TEXT_TOKENS}"
                )
            return original(
                self, hidden_states, timestep, encoder_hidden_states, encoder_hidden_states_image, *args, **kwargs
            )

        return forward

    replace_forward(wan.xFuserWanTransformer3DWrapper, make)


def _transformer(wan: Any) -> None:
    refuse_short_text_beside_a_picture(wan)
    leave_padding_out(wan)


HOOKS = {TRANSFORMERS + "transformer_wan": _transformer}
