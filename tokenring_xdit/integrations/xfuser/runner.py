"""xfuser's own command: how many processes it starts for a TokenRing degree, and how it names what it writes."""

from __future__ import annotations

import argparse
import re
from typing import Any

from tokenring_xdit.attention.auto import show_choices
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.integrations.xfuser.choice import DEFAULT_SCHEDULE, make_choice
from tokenring_xdit.integrations.xfuser.repairs.common import replace_method

__all__ = ["HOOKS"]


def count_processes(cli: Any) -> None:
    """Multiply the TokenRing degree into the number of processes, or refuse it before they are started.

    xfuser 0.7.0: ``get_nproc_from_args`` knows five degrees by name.
    """

    def make(original: Any) -> Any:
        def get_nproc_from_args(args: list[str]) -> int:
            try:
                degree = _degree(args)
            except (TokenRingError, argparse.ArgumentError) as error:
                raise SystemExit(f"xdit: {error}") from error  # here it is said once, and not by every rank
            return int(original(args)) * degree

        return get_nproc_from_args

    replace_method(cli, "get_nproc_from_args", make)


def _degree(args: list[str]) -> int:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--tokenring_degree", "--tokenring-degree", type=int, default=1)
    parser.add_argument("--tokenring_schedule", "--tokenring-schedule", default=DEFAULT_SCHEDULE)
    parser.add_argument("--ring_degree", "--ring-degree", type=int, default=1)
    known, _ = parser.parse_known_args(args)
    make_choice(known.tokenring_degree, known.tokenring_schedule, known.ring_degree)
    return int(known.tokenring_degree)


def name_outputs(base_model: Any) -> None:
    """Put the algorithm into the names of files, or a run with TokenRing overwrites one without.

    xfuser 0.7.0: ``get_output_name`` has the Ulysses and Ring degrees only.
    """

    def make(original: Any) -> Any:
        def get_output_name(self: Any, input_args: Any) -> str:
            name = str(original(self, input_args))
            if (self.config.tokenring_degree or 1) > 1:
                schedule = re.sub("[:,=]", "-", self.config.tokenring_schedule)  # not every file system takes these
                name += f"_tokenring{self.config.tokenring_degree}_{schedule}"
            return name

        return get_output_name

    replace_method(base_model.xFuserModel, "get_output_name", make)


def prepare_ranks(base_model: Any) -> None:
    """What the ranks of the command do differently; a program of one's own does not load that module."""
    show_choices()
    name_outputs(base_model)


HOOKS = {
    "xfuser.cli": count_processes,
    "xfuser.model_executor.models.runner_models.base_model": prepare_ranks,
}
