"""What xfuser 0.7.0 gets wrong for Wan 2.1 VACE."""

from __future__ import annotations

from typing import Any

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.xfuser.choice import tokenring_degree_of
from tokenring_xdit.hosts.xfuser.family import TRANSFORMERS
from tokenring_xdit.hosts.xfuser.repairs.common import (
    patches_layout,
    replace_forward,
    replace_method,
    under_layout,
)

__all__ = ["HOOKS"]


def leave_padding_out(vace: Any) -> None:
    """Keep padding out of the keys of both sequences, that of the video and that of what controls it.

    xfuser 0.7.0: ``xFuserWanVACETransformer3DWrapper.forward`` pads both to a multiple of the ranks and attends the
    padding as keys.
    """

    def make(original: Any) -> Any:
        return under_layout(original, patches_layout)

    replace_forward(vace.xFuserWanVACETransformer3DWrapper, make)


def hand_over_one_prompt(wan: Any) -> None:
    """Hand the pipeline a prompt, of which it takes no list.

    xfuser 0.7.0: ``xFuserWan21VACEModel._run_pipe`` passes what the command line has, a list, which diffusers' pipeline
    refuses.
    """

    def make(original: Any) -> Any:
        def run_pipe(self: Any, input_args: dict[str, Any]) -> Any:
            prompt = input_args["prompt"]
            if tokenring_degree_of(self.config) > 1 and isinstance(prompt, list):
                if len(prompt) > 1:
                    raise UnsupportedError(
                        f"{len(prompt)} prompts were given to Wan VACE, whose pipeline takes one: run xdit for each"
                    )
                input_args = {**input_args, "prompt": prompt[0]}
            return original(self, input_args)

        return run_pipe

    replace_method(wan.xFuserWan21VACEModel, "_run_pipe", make)


HOOKS = {
    TRANSFORMERS + "transformer_wan_vace": leave_padding_out,
    "xfuser.model_executor.models.runner_models.wan": hand_over_one_prompt,
}
