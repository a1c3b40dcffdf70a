"""Refusals as ``docs/support.md`` quotes them: without what differs from case to case, so that each is said once."""

from __future__ import annotations

import re

__all__ = ["general"]

_GENERAL = [
    (r"\bthe (Transformer\w*Model|DiT2DModel|\w+Transformer\w*Model|\(the model\))", "the model"),
    (r" \(\(the model\)\)", ""),
    (r"\(the pipeline\)|\b\w+Pipeline\b", "the pipeline"),
    (
        r"\w+(?: is|:)? (?:'.*'|\[.*\]|\{.*\}|an? .*|\w+|[\d.]+) on rank 0 and .* on rank 1:",
        "… is … on rank 0 and … on rank 1:",
    ),
    (r"transformer\.[\w.]+ differs between", "transformer.… differs between"),
    (r"^\w+ was set as the attention processor of [\w.]+, ", "… was set as the attention processor of …, "),
    (r"use \w+, diffusers' default", "use …, diffusers' default"),
    (r"a forward hook \(.*?\) was put on [\w.]+ in", "a forward hook (…) was put on … in"),
    (r"diffusers' hook '\w+' was put", "diffusers' hook '…' was put"),
    (r"\w+ differs by about [\d.]+ of its size", "… differs by about … of its size"),
    (r"to call \d+, ", "to call …, "),
    (r"at call \d+, ", "at call …, "),
    (r"the class of the transformer is \w+,", "the class of the transformer is …,"),
    (r"'no_such_argument'", "'…'"),
    (r"LTX-2 with \d+ video tokens", "LTX-2 with … video tokens"),
    (
        r"a height of \d+ pixels (.*) a multiple of \d+\. Use \d+ or \d+,",
        r"a height of … pixels \1 a multiple of …. Use … or …,",
    ),
    (
        r"max_sequence_length=\d+ was asked for, but (\w+) (.*) the number (\d+):",
        r"max_sequence_length=… was asked for, but \1 \2 the number \3:",
    ),
]
"""Patterns, with what takes their place."""


def general(message: str) -> str:
    """A refusal without names, sizes and numbers of the case in which it was raised.

    Args:
        message: As it was raised, or as an earlier page has it.
    """
    for pattern, replacement in _GENERAL:
        message = re.sub(pattern, replacement, message)
    return message
