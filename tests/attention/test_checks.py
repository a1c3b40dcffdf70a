"""One rank's own mistake, of whatever kind: told to all ranks, which can go on afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.attention.trouble import mistaken, mistaken_in_turn, run
from tokenring_xdit.attention.member import AGREEMENT_TIMEOUT_VARIABLE
from tokenring_xdit.liveness import LIMIT_VARIABLE


class Broken:
    """Stands for a value whose own methods raise."""

    def __hash__(self) -> int:
        raise ZeroDivisionError("no hash today")


def out_of_memory(*_: Any, **__: Any) -> Any:
    raise MemoryError("no room for keys")


class Exhausted(torch.Tensor):
    """A tensor that raises whatever is asked of it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise MemoryError("no room for keys")


class Ending:
    """A key whose hash ends the program."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __hash__(self) -> int:
        raise self.error


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a list": ({"q": [1.0, 2.0]}, "q has to be a tensor, got a list of 2"),
    "None": ({"k": None}, "k has to be a tensor, got None"),
    "a string": ({"v": "values"}, "v has to be a tensor, got 'values'"),
    "a key without hash": ({"cache_key": [2]}, "cache_key has to be hashable"),
    "a key whose hash raises": ({"cache_key": Broken()}, "ZeroDivisionError: no hash today"),
    "a list as mask": ({"key_mask": [True] * 8}, "key_mask has to be a bool tensor [B, Skv] or a KeyMask, got a list"),
    "one home tensor": ({"joint_kv": torch.zeros(1, 2, 4, 16)}, "joint_kv has to be two tensors, keys and values"),
    "three home tensors": ({"joint_kv": (torch.zeros(1, 2, 4, 16),) * 3}, "joint_kv has to be two tensors"),
    "a home mask alone": ({"joint_mask": torch.ones(1, 4, dtype=torch.bool)}, "joint_mask hides keys of joint_kv"),
    "a dtype by name": ({"partial_dtype": "float32"}, "partial_dtype has to be a torch.dtype or None, got 'float32'"),
    "scale as text": ({"scale": "0.5"}, "scale has to be a finite number or None, got '0.5'"),
    "scale nan": ({"scale": float("nan")}, "scale has to be a finite number or None, got nan"),
    "causal as text": ({"causal": "yes"}, "causal has to be True or False, got 'yes'"),
    "a number as schedule": ({"schedule": 3}, "a schedule has to be a name or a VerifiedSchedule, not 3"),
    "a number as kernel": ({"kernel": 3}, "kernel has to be a name, a function or None, got 3"),
    "a sparse tensor": ({"q": torch.zeros(1, 2, 8, 16).to_sparse()}, "q has to be a dense tensor"),
    "no memory": ({"q": torch.zeros(1, 2, 8, 16).as_subclass(Exhausted)}, "MemoryError: no room for keys"),
    "a bad timeout": (
        {"environment": {AGREEMENT_TIMEOUT_VARIABLE: "soon"}},
        f"{AGREEMENT_TIMEOUT_VARIABLE}='soon' is not a positive number of seconds",
    ),
    "a bad limit": (
        {"environment": {LIMIT_VARIABLE: "-1"}},
        f"{LIMIT_VARIABLE}='-1' is not a positive number of seconds",
    ),
}
ENDS: dict[str, tuple[dict[str, Any], str]] = {
    error.__name__: ({"cache_key": Ending(error)}, error.__name__) for error in (KeyboardInterrupt, SystemExit)
}


@pytest.mark.e2e
def test_each_mistake_is_told_to_all_and_the_group_goes_on(tmp_path: Path) -> None:
    said = run(3, mistaken_in_turn, folder=tmp_path, awaited=(0, 1, 2))
    for number, rank in enumerate(said):
        first, *rest = rank.lines
        assert first == "right"
        for (name, (_, message)), wrong, after in zip(MISTAKES.items(), rest[::2], rest[1::2], strict=True):
            told(name, message, number, wrong)
            assert after == "right", name


FIRST = {"a list", "a key whose hash raises", "no memory", "a bad limit"}
"""Mistakes that are tried in the first call of all."""


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each in FIRST else pytest.mark.matrix) for each in MISTAKES]
)
@pytest.mark.e2e
def test_a_mistake_in_the_first_call_is_told_to_all(name: str, tmp_path: Path) -> None:
    for number, rank in enumerate(run(3, mistaken, name, False, 0, folder=tmp_path, awaited=(0, 1, 2))):
        wrong, after = rank.lines
        told(name, MISTAKES[name][1], number, wrong)
        assert after == "right"


def told(name: str, message: str, rank: int, wrong: str) -> None:
    """Look at what a rank says of a mistake; its own error is there for whoever looks into it."""
    assert wrong.startswith("AgreementError: attention was refused: rank 1: ") and message in wrong, name
    assert ("[from " in wrong) == (rank == 1), name


@pytest.mark.parametrize("name", ["None", "no memory"])
def test_ranks_that_do_not_listen_are_told_too(name: str, tmp_path: Path) -> None:
    """With a key that is known the others are in the middle of transfers: the group ends, and all name rank 1."""
    message = MISTAKES[name][1]
    for rank in run(3, mistaken, name, True, 2, folder=tmp_path, awaited=(0, 1, 2)):
        first, second, wrong, after = rank.lines
        assert (first, second) == ("right", "right")
        assert wrong.startswith("AgreementError: ") and "rank 1" in wrong and message in wrong
        assert after.startswith("CommunicationError: an earlier attention call on this process group failed: ")


@pytest.mark.parametrize("name", ENDS)
def test_a_rank_that_is_ended_while_it_checks_tells_the_others(name: str, tmp_path: Path) -> None:
    said = run(3, mistaken, name, False, 1, folder=tmp_path, awaited=(0, 1, 2))
    assert said[1].lines[1].startswith(name)
    for rank in (0, 2):
        assert said[rank].lines[1].startswith(f"CommunicationError: rank 1 was ended in call 2: {name}")
