"""All that this package changes in a process outside of itself, as one object that can be listed and undone.

Functions of xfuser and diffusers are replaced right after their modules have been imported, and on a machine without
an accelerator some of torch too. Whoever does so goes through :data:`INSTALLATION`, which remembers what was there.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import wrapt

from tokenring_xdit.hosts.running import RUNNING, Running

__all__ = ["INSTALLATION", "Change", "Hook", "Installation"]

log = logging.getLogger("tokenring_xdit")

Hook = Callable[[Any], None]
"""What is done to a module right after it has been imported."""

_MISSING = object()

_PACKAGE = f"{__name__.partition('.')[0]}."


@dataclass(frozen=True)
class Change:
    """One thing outside of this package that is not as it was.

    Attributes:
        what: Its name, such as ``torch.cuda.synchronize``.
        by: The function of this package that changed it.
        why: In a sentence.
    """

    what: str
    by: str
    why: str


@dataclass(eq=False)
class _Made:
    """A change: what was there before and what is there since, how to look at it and how to put the former back."""

    change: Change
    before: Any
    ours: Any
    now: Callable[[], Any]
    restore: Callable[[], None]


@dataclass(eq=False)
class _Attachment:
    """A hook that waits for a module, or has changed it. wrapt forgets none: one that was undone does nothing."""

    installation: Installation
    module: str
    hook: Hook
    tolerant: bool
    live: bool = True
    done: bool = False

    def __call__(self, module: Any) -> None:
        if self.live:
            self.done = True
            self.installation._run(self, module)


@dataclass
class Installation:
    """What was changed, and by whom.

    Attributes:
        hosts: Host libraries that it attached itself to, or will when they are imported.
        unattached: Modules that could not be changed: those of another release, where that was tolerated.
        reached: Modules whose hooks have run, be that undone or not.
        undone: Whether :meth:`undo` was called, and nothing was attached since.
        running: What this rank is in the middle of, which code between two of our functions is not handed.
    """

    hosts: set[str] = field(default_factory=set)
    unattached: list[str] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)
    undone: bool = False
    running: Running = field(default_factory=lambda: RUNNING)
    _made: list[_Made] = field(default_factory=list)
    _attachments: list[_Attachment] = field(default_factory=list)
    _authors: list[Callable[..., Any]] = field(default_factory=list)

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes, in the order in which they were made."""
        return tuple(made.change for made in self._made)

    @property
    def waiting(self) -> tuple[Change, ...]:
        """What is going to be changed once it is imported."""
        return tuple(
            Change(f"import of {each.module}", _name(each.hook), _why(each.hook))
            for each in self._attachments
            if not each.done
        )

    def attach(self, module: str, hook: Hook, *, tolerant: bool = False) -> None:
        """Have a module changed as soon as it is imported, now where it is; a second time does nothing.

        Args:
            module: Its name.
            hook: What changes it, through :meth:`replace` and :meth:`put`.
            tolerant: Where the hook fails, leave the module as it was, log that and note it in :attr:`unattached`,
                instead of making the import fail.
        """
        self.undone = False
        if any((each.module, each.hook) == (module, hook) for each in self._attachments):
            return
        attachment = _Attachment(self, module, hook, tolerant)
        self._attachments.append(attachment)
        wrapt.register_post_import_hook(attachment, module)

    def replace(
        self, owner: Any, name: str, value: Any, why: str = "", author: Callable[..., Any] | None = None
    ) -> None:
        """Set an attribute of a module, a class or a function.

        Args:
            owner: The module, class or function.
            name: The attribute; it need not exist.
            value: What it is from now on.
            why: In a sentence; the first one of the author's documentation by default.
            author: The function that changes it; by default the hook that is running.
        """
        before = vars(owner).get(name, _MISSING)  # and not what a class inherits, or binds

        def restore() -> None:
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        setattr(owner, name, value)
        self._note(f"{_name(owner)}.{name}", why, author, before, lambda: vars(owner).get(name, _MISSING), restore)

    def put(self, mapping: MutableMapping[Any, Any], key: Any, value: Any, what: str, why: str = "") -> None:
        """Set an entry of a mapping, such as a registry of kernels or the environment.

        Args:
            mapping: The mapping.
            key: The entry; it need not exist.
            value: What it is from now on.
            what: The mapping's name.
            why: As for :meth:`replace`.
        """
        before = mapping.get(key, _MISSING)

        def restore() -> None:
            if before is _MISSING:
                del mapping[key]
            else:
                mapping[key] = before

        mapping[key] = value
        self._note(f"{what}[{key}]", why, None, before, lambda: mapping.get(key, _MISSING), restore)

    def set_level(self, logger: Any, level: int, what: str, why: str = "") -> None:
        """Set how much a logger, or a handler, lets through.

        Args:
            logger: The logger.
            level: As :mod:`logging` numbers them.
            what: Its name.
            why: As for :meth:`replace`.
        """
        before = logger.level
        logger.setLevel(level)
        restore = partial(logger.setLevel, before)
        self._note(f"level of {what}", why, None, before, lambda: logger.level, restore)

    @contextmanager
    def replaced(self, owner: Any, name: str, value: Any, why: str) -> Iterator[None]:
        """:meth:`replace` for a while."""
        self.replace(owner, name, value, why, author=_caller())
        made = self._made[-1]
        try:
            yield
        finally:
            if made in self._made:
                made.restore()
                self._made.remove(made)

    def undo(self) -> None:
        """Put back all that was changed, the newest first, and change nothing that is imported from now on.

        What another program has put on top of a change since is left, with a warning.
        """
        for attachment in self._attachments:
            attachment.live = False
        self._attachments.clear()
        self._undo_to(0)
        self.hosts.clear()
        self.unattached.clear()
        self.running.reset()
        self.undone = True

    def _note(
        self,
        what: str,
        why: str,
        author: Callable[..., Any] | None,
        before: Any,
        now: Callable[[], Any],
        restore: Callable[[], None],
    ) -> None:
        author = author or (self._authors[-1] if self._authors else _caller())
        self._made.append(_Made(Change(what, _name(author), why or _why(author)), before, now(), now, restore))

    def _undo_to(self, count: int) -> None:
        undone = self._made[count:]
        del self._made[count:]
        for made in reversed(undone):
            if made.now() is made.ours or made.now() == made.ours:
                made.restore()
            else:
                log.warning("%s is left as it is: it was changed again after %s", made.change.what, made.change.by)
        _put_back_copies({id(made.ours): made for made in undone if _is_ours(made.ours)})

    def _run(self, attachment: _Attachment, module: ModuleType) -> None:
        before = len(self._made)
        self.reached.add(attachment.module)
        self._authors.append(attachment.hook)
        try:
            attachment.hook(module)
        except Exception:
            if not attachment.tolerant:
                raise
            self._undo_to(before)
            log.warning("TokenRing could not attach itself to %s", module.__name__, exc_info=True)
            self.unattached.append(module.__name__)
        finally:
            self._authors.pop()


INSTALLATION = Installation()
"""That of this process."""


def _is_ours(value: Any) -> bool:
    """Whether this is a function or class of this package, which may have the name of another."""
    if isinstance(value, FunctionType):
        return str(value.__globals__.get("__name__")).startswith(_PACKAGE)
    return isinstance(value, type) and value.__module__.startswith(_PACKAGE)


def _put_back_copies(undone: dict[int, _Made]) -> None:
    """Put back what modules have imported by name from one that was changed."""
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            copied = value
            while id(copied) in undone and undone[id(copied)].ours is copied:
                copied = undone[id(copied)].before
            if copied is not value and copied is not _MISSING:
                setattr(module, name, copied)


def _name(of: Any) -> str:
    if isinstance(of, ModuleType):
        return of.__name__
    function = getattr(of, "func", of)  # of a partial
    return f"{function.__module__}.{function.__qualname__}"


def _why(author: Any) -> str:
    documentation = getattr(author, "func", author).__doc__ or ""
    return " ".join(documentation.partition("\n\n")[0].split())


def _caller() -> Callable[..., Any]:
    """The function of this package that called this module."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in {__name__, "contextlib"}:
        frame = frame.f_back

    def author() -> None: ...

    author.__module__, author.__qualname__ = frame.f_globals["__name__"], frame.f_code.co_name
    return author
