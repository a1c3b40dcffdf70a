"""xfuser's own command: how many processes a TokenRing degree means, names of what is written, refusals said once."""

from __future__ import annotations

import argparse
import copy
import os
import re
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from tokenring_xdit.attention.auto import show_choices
from tokenring_xdit.defaults import DEFAULT_SCHEDULE
from tokenring_xdit.errors import (
    ConfigurationError,
    ModelUnreachableError,
    ScheduleError,
    TokenRingError,
    UnsupportedError,
)
from tokenring_xdit.graphs import refuse_without_cuda
from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.hosts.xfuser.choice import make_choice, tokenring_degree_of
from tokenring_xdit.hosts.xfuser.graphs import FLAG
from tokenring_xdit.hosts.xfuser.repairs.common import replace_method
from tokenring_xdit.hosts.xfuser.supported import refuse_untested_model
from tokenring_xdit.hub import download, problem_in

__all__ = ["HOOKS", "checkpoint_of"]

_REFUSAL_FILE = "TOKENRING_REFUSAL_FILE"
"""Environment variable: where a rank that refuses what was asked leaves its reason for the command to say."""

_INDICES = ("model_index.json", "modular_model_index.json")
"""What a folder of a pipeline has, one of them."""


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--tokenring_degree", "--tokenring-degree", type=int, default=1)
    parser.add_argument("--tokenring_schedule", "--tokenring-schedule", default=DEFAULT_SCHEDULE)
    parser.add_argument("--ring_degree", "--ring-degree", type=int, default=1)
    parser.add_argument("--model")
    parser.add_argument("--task")
    parser.add_argument(f"--{FLAG}", f"--{FLAG.replace('_', '-')}", action="store_true")
    return parser


def _degree(args: list[str]) -> int:
    known, _ = _parser().parse_known_args(args)
    if getattr(known, FLAG):
        refuse_without_cuda(f"--{FLAG}")
    make_choice(known.tokenring_degree, known.tokenring_schedule, known.ring_degree)
    if known.tokenring_degree > 1:
        from xfuser.model_executor.models.runner_models.base_model import MODEL_REGISTRY

        if known.model in MODEL_REGISTRY:
            kind = MODEL_REGISTRY[known.model]
            refuse_untested_model(kind, known.model, known.tokenring_degree)
            _refuse_unreachable(*checkpoint_of(kind, known.model, known.task))
    return int(known.tokenring_degree)


def checkpoint_of(runner: Any, model: str, task: str | None) -> tuple[str, str | None]:
    """The folder or hub name of what a runner is going to load, and which revision of it.

    Args:
        runner: xfuser's class for the model.
        model: Its name there.
        task: What it is asked for; some runners load another checkpoint for each.
    """
    from xfuser import xFuserArgs

    unmade = object.__new__(runner)  # its constructor looks at all that was asked for
    unmade.settings = copy.deepcopy(runner.settings)
    unmade._customize_settings(xFuserArgs(model=model, task=task))
    return str(unmade.settings.model_name), runner.checkpoint_request_defaults.get("revision")


def _refuse_unreachable(name: str, revision: str | None) -> None:
    """Refuse a checkpoint that is not here and cannot be had, before ranks start and each of them says so.

    Raises:
        ConfigurationError: There is none of this name.
        ModelUnreachableError: It is not here, and the hub cannot be asked.
    """
    problems: list[TokenRingError] = []
    for file in _INDICES:
        try:
            download(name, file, revision=revision)
        except (ConfigurationError, ModelUnreachableError) as error:
            problems.append(error)
        else:
            return
    raise problems[0]


def repeat_refusal(cli: Any) -> None:
    """Have the command end with a rank's refusal, in place of what torchrun says of processes that failed."""

    def make(original: Any) -> Any:
        def main(args: list[str] | None = None) -> None:
            with tempfile.TemporaryDirectory(prefix="tokenring-xdit-") as folder:
                refusal = Path(folder) / "refusal"
                os.environ[_REFUSAL_FILE] = str(refusal)
                try:
                    original(args)
                except SystemExit as end:
                    if end.code and refusal.exists():
                        raise SystemExit(f"xdit: {refusal.read_text(encoding='utf-8')}") from None
                    raise

        return main

    replace_method(cli, "main", make)


def refuse_without_traceback() -> None:
    """Have a rank that refuses what was asked say so in words: once, to the command, or itself under plain torchrun."""
    original = sys.excepthook

    def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        said: str | None = None
        if isinstance(error, (ConfigurationError, ScheduleError, UnsupportedError)):
            said = str(error)
        elif _tokenring_was_asked_for():
            said = problem_in(error)
        if said is None:
            original(kind, error, trace)
            return
        refusal = os.environ.get(_REFUSAL_FILE)
        if refusal is None:
            print(f"rank {os.environ.get('RANK', '0')}: {said}", file=sys.stderr)
            return
        try:
            with Path(refusal).open("x", encoding="utf-8") as file:
                file.write(said)
        except FileExistsError:
            pass  # another rank was first, with the same reason

    INSTALLATION.replace(sys, "excepthook", say, author=refuse_without_traceback)


def _tokenring_was_asked_for() -> bool:
    return bool(_parser().parse_known_args(sys.argv[1:])[0].tokenring_degree > 1)


def name_outputs(base_model: Any) -> None:
    """Put the algorithm into the names of files, or a run with TokenRing overwrites one without.

    xfuser 0.7.0: ``get_output_name`` has the Ulysses and Ring degrees only.
    """

    def make(original: Any) -> Any:
        def get_output_name(self: Any, input_args: Any) -> str:
            name = str(original(self, input_args))
            degree = tokenring_degree_of(self.config)
            if degree > 1:
                schedule = re.sub("[:,=]", "-", self.config.tokenring_schedule)  # not every file system takes these
                name += f"_tokenring{degree}_{schedule}"
            return name

        return get_output_name

    replace_method(base_model.xFuserModel, "get_output_name", make)


def prepare_ranks(base_model: Any) -> None:
    """What the ranks of the command do differently; a program of one's own does not load that module."""
    show_choices()
    refuse_without_traceback()
    name_outputs(base_model)


def prepare_command(cli: Any) -> None:
    """What the command itself does differently, before and after its ranks."""
    count_processes(cli)
    repeat_refusal(cli)


HOOKS = {
    "xfuser.cli": prepare_command,
    "xfuser.model_executor.models.runner_models.base_model": prepare_ranks,
}
