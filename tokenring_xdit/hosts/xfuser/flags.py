"""``--tokenring_degree`` and so on, on xfuser's own parsers and configs."""

from __future__ import annotations

import functools
import logging
from typing import Any

from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.hosts.xfuser.choice import attach, make_choice
from tokenring_xdit.hosts.xfuser.graphs import FLAG, refuse_graphs
from tokenring_xdit.schedule import ALGORITHMS, Mask

__all__ = ["install_flags"]

log = logging.getLogger("tokenring_xdit")

_FLAGS = ("tokenring_degree", "tokenring_schedule", FLAG)


def install_flags(args_module: Any) -> None:
    """Add the flags to ``xFuserArgs``, and carry the choice into its config.

    ``args.tokenring_degree`` multiplies into xfuser's ring degree while the config is made, so that
    upstream builds its groups and checks its kernels as for Ring; the choice itself rides on
    ``parallel_config.sp_config``.
    """
    cls = args_module.xFuserArgs
    INSTALLATION.replace(cls, "tokenring_degree", 1)
    INSTALLATION.replace(cls, "tokenring_schedule", DEFAULT_SCHEDULE)
    INSTALLATION.replace(cls, FLAG, False)
    for name in ("add_cli_args", "add_runner_args"):
        INSTALLATION.replace(cls, name, staticmethod(_with_flags(getattr(cls, name), name == "add_runner_args")))
    for name in ("from_cli_args", "from_runner_args"):
        INSTALLATION.replace(cls, name, classmethod(_keeping_flags(getattr(cls, name).__func__)))
    INSTALLATION.replace(cls, "create_config", _with_choice(cls.create_config))


def _with_flags(original: Any, runner: bool) -> Any:
    @functools.wraps(original)
    def add_args(parser: Any) -> Any:
        parser = original(parser)
        names = [name for name, algorithm in ALGORITHMS.items() if Mask.FULL in algorithm.masks]
        group = parser.add_argument_group("TokenRing (tokenring-xdit)")
        group.add_argument(
            "--tokenring_degree",
            type=int,
            default=1,
            help="Ranks that TokenRing attention shards the sequence over. 1 leaves it off. With --ring_degree N "
            "this many ranks in each of N nodes, and a ring of keys and values between the nodes.",
        )
        group.add_argument(
            "--tokenring_schedule",
            type=str,
            default=DEFAULT_SCHEDULE,
            help=f"What these ranks exchange and when: {', '.join(names)}; with options as in "
            f"{DEFAULT_SCHEDULE}:chunks=4 (see tokenring-xdit schedule list), or auto, which chooses one for "
            "the shapes.",
        )
        if runner:  # programs of one's own call transformers as they like
            group.add_argument(
                f"--{FLAG}",
                action="store_true",
                help="Capture calls of the transformer as CUDA graphs and replay them, under any strategy.",
            )
        return parser

    return add_args


def _keeping_flags(original: Any) -> Any:
    @functools.wraps(original)
    def from_args(cls: Any, args: Any) -> Any:
        engine_args = original(cls, args)
        given = args if isinstance(args, dict) else vars(args)
        for name in _FLAGS:
            if name in given:
                setattr(engine_args, name, given[name])
        return engine_args

    return from_args


def _with_choice(original: Any) -> Any:
    @functools.wraps(original)
    def create_config(self: Any) -> Any:
        choice = make_choice(self.tokenring_degree, self.tokenring_schedule, self.ring_degree)
        if getattr(self, FLAG):
            refuse_graphs(self)
        ring_degree = self.ring_degree
        ulysses, stages = self.ulysses_degree or 1, self.pipefusion_parallel_degree
        if choice is not None and ulysses > 1 and stages > 1:
            raise UnsupportedError(
                f"tokenring_degree={self.tokenring_degree} with ulysses_degree={ulysses} and "
                f"pipefusion_parallel_degree={stages} was not compared, and xfuser's own result of Ulysses with "
                "PipeFusion depends on the model. "
                f"Use tokenring_degree={choice.sequence_ranks * ulysses} with ulysses_degree=1"
            )
        if choice is None and self.tokenring_schedule not in {None, DEFAULT_SCHEDULE}:
            log.warning("--tokenring_schedule %s does nothing without --tokenring_degree", self.tokenring_schedule)
        if choice is not None:
            self.ring_degree = choice.sequence_ranks
        try:
            engine_config, input_config = original(self)
        finally:
            self.ring_degree = ring_degree
        attach(engine_config.parallel_config.sp_config, choice)
        return engine_config, input_config

    return create_config
