"""What every rank does: it takes a task, carries its command out, answers, and takes the next one."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tokenring_xdit.workers.messages import Answer, Failed, Progress, Task

__all__ = ["Commands", "Mailbox", "serve"]

Commands = Mapping[type, Callable[[Any], Any]]
"""What a program of ranks can be asked for: by the class of a command, what carries it out and returns the answer."""


class Mailbox(ABC):
    """Where a rank's tasks come from and its answers go.

    Attributes:
        store: The store at which the ranks join; ``None`` where the environment says how.
        number: Number of the request that was taken last.
    """

    store: Any = None
    number: int | None = None

    @abstractmethod
    def next(self) -> Task | None:
        """Wait for the next task; ``None`` is the end."""

    @abstractmethod
    def answer(self, message: Answer | Failed | Progress) -> None:
        """Tell whoever gives the tasks."""

    @abstractmethod
    def cancelled(self) -> bool:
        """Whether this rank was told to give up what it does."""


def serve(mailbox: Mailbox, program: str) -> None:
    """Carry out tasks until there are no more.

    A command that raises has interrupted what ranks do together: it is reported, and raised. One that
    returns a :class:`Failed`, with its phase, has left this rank able to go on.

    Args:
        mailbox: Where tasks come from and answers go.
        program: Module that is imported; its ``commands(mailbox)`` makes this process ready and returns
            :data:`Commands`.
    """
    try:
        commands: Commands = importlib.import_module(program).commands(mailbox)
        while (task := mailbox.next()) is not None:
            content = commands[type(task.command)](task.command)
            failed = isinstance(content, Failed)
            mailbox.answer(replace(content, number=task.number) if failed else Answer(task.number, content))
    except Exception as error:
        mailbox.answer(Failed.of(error, number=mailbox.number))
        raise
