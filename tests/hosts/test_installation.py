"""What this package changes in a process outside of itself: listed, undone, and then as it was."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from tokenring_xdit.hosts import installed
from tokenring_xdit.hosts.installation import INSTALLATION, Change, Installation

THIS = __name__


class Owner:
    """Of which tests change something."""

    def method(self) -> str:
        """One that is bound."""
        return "theirs"

    @staticmethod
    def static() -> str:
        """One that is not."""
        return "theirs"

    @classmethod
    def of_class(cls) -> str:
        """One that is bound to the class."""
        return cls.__name__


class Heir(Owner):
    """Has nothing of its own."""


@pytest.fixture
def installation() -> Installation:
    return Installation()


@pytest.fixture
def module() -> Iterator[ModuleType]:
    made = ModuleType("a_library_of_others")
    made.function = len  # type: ignore[attr-defined]
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def change_it(library: Any) -> None:
    """Have it count what is no number.

    And more.
    """
    INSTALLATION.replace(library, "function", str)


def test_there_is_one() -> None:
    assert installed() is INSTALLATION


def test_attributes_are_as_they_were(installation: Installation, module: ModuleType) -> None:
    before = {name: value for kind in (Owner, Heir) for name, value in vars(kind).items()}
    installation.replace(module, "function", str, "one", author=change_it)
    installation.replace(module, "function", int, "two", author=change_it)
    installation.replace(module, "new", 1, "three", author=change_it)
    for name in ("method", "static", "of_class", "new"):
        installation.replace(Owner, name, None, author=change_it)
    installation.replace(Heir, "method", None, author=change_it)
    assert installation.changes[:2] == (
        Change("a_library_of_others.function", f"{THIS}.change_it", "one"),
        Change("a_library_of_others.function", f"{THIS}.change_it", "two"),
    )
    assert installation.changes[-1] == Change(
        f"{THIS}.Heir.method", f"{THIS}.change_it", "Have it count what is no number."
    )
    installation.undo()
    assert installation.changes == ()
    assert module.function is len
    assert not hasattr(module, "new")
    assert {name: value for kind in (Owner, Heir) for name, value in vars(kind).items()} == before
    assert (Owner.static(), Owner.of_class(), Heir().method()) == ("theirs", "Owner", "theirs")


def test_entries_and_levels_are_as_they_were(installation: Installation) -> None:
    mapping = {"a": 1}
    logger = logging.getLogger(THIS)
    installation.put(mapping, "a", 2, "mapping", "because")
    installation.put(mapping, "b", 3, "mapping")
    installation.set_level(logger, logging.ERROR, THIS)
    assert mapping == {"a": 2, "b": 3}
    assert logger.level == logging.ERROR
    assert [change.what for change in installation.changes] == ["mapping[a]", "mapping[b]", f"level of {THIS}"]
    assert installation.changes[0].by == f"{THIS}.test_entries_and_levels_are_as_they_were"
    installation.undo()
    assert mapping == {"a": 1}
    assert logger.level == logging.NOTSET


def test_what_another_program_has_put_on_top_stays(
    installation: Installation, module: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    installation.replace(module, "function", str, author=change_it)
    module.function = repr  # type: ignore[attr-defined]
    installation.undo()
    assert module.function is repr
    assert f"a_library_of_others.function is left as it is: it was changed again after {THIS}.change_it" in caplog.text


def test_names_that_were_imported_from_what_was_changed_are_put_back(
    installation: Installation, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = FunctionType(change_it.__code__, {"__name__": "tokenring_xdit.somewhere"})
    installation.replace(module, "function", ours, author=change_it)
    importer = ModuleType("another_library")
    importer.copied = module.function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, importer.__name__, importer)
    installation.replace(importer, "copied", lambda: None, author=change_it)
    installation.undo()
    assert importer.copied is len
    assert module.function is len


def test_for_a_while(installation: Installation, module: ModuleType) -> None:
    with installation.replaced(module, "function", str, "a test"):
        assert module.function is str
        assert [change.why for change in installation.changes] == ["a test"]
    assert module.function is len
    assert installation.changes == ()


def test_a_module_is_changed_when_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installation = Installation()
    (tmp_path / "imported_late.py").write_text("function = len\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def change(library: Any) -> None:
        """Change it."""
        installation.replace(library, "function", str)

    installation.attach("imported_late", change)
    installation.attach("imported_late", change)
    assert [(wait.what, wait.why) for wait in installation.waiting] == [("import of imported_late", "Change it.")]
    import imported_late  # type: ignore[import-not-found]

    assert imported_late.function is str
    assert len(installation.changes) == 1
    assert installation.waiting == ()
    installation.undo()
    assert imported_late.function is len
    installation.attach("imported_late", change)
    assert imported_late.function is str
    installation.undo()
    assert installation.undone


def test_nothing_is_changed_after_undoing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installation = Installation()
    (tmp_path / "imported_later.py").write_text("function = len\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    installation.attach("imported_later", lambda library: installation.replace(library, "function", str))
    installation.undo()
    import imported_later  # type: ignore[import-not-found]

    assert imported_later.function is len


def test_a_hook_that_fails_leaves_the_module_as_it_was(module: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    installation = Installation()

    def change(library: Any) -> None:
        installation.replace(library, "function", str)
        raise AttributeError("another release")

    with pytest.raises(AttributeError, match="another release"):
        installation.attach(module.__name__, change)
    installation.undo()
    installation.attach(module.__name__, change, tolerant=True)
    assert module.function is len
    assert installation.changes == ()
    assert installation.unattached == [module.__name__]
    assert "could not attach itself to a_library_of_others" in caplog.text


PROGRAM = """
import json, logging, os, pkgutil, sys, types
import torch, torch.distributed as dist
from diffusers import DiffusionPipeline
from diffusers.hooks import first_block_cache
import tokenring_xdit

OURS = os.path.dirname(tokenring_xdit.__file__)
LIBRARIES = ("xfuser", "diffusers", "torch.cuda", "torch.distributed", "yunchang", "sys", "transformers.utils.logging")


def functions(value, depth=0):
    "A function, and those that it was made of or stands for."
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if depth < 5 and isinstance(value, types.FunctionType):
        yield value
        for name in ("__wrapped__", "_torchdynamo_orig_callable"):
            yield from functions(vars(value).get(name), depth + 1)


def ours():
    "Where functions and classes of this package stand in other libraries: found by looking, not by what was noted."
    found = set()

    def look(place, value):
        of = value if isinstance(value, type) else None
        if any(function.__code__.co_filename.startswith(OURS) for function in functions(value)):
            found.add(place)
        elif of is not None and of.__module__.startswith("tokenring_xdit"):
            found.add(place)

    for name, module in list(sys.modules.items()):
        if not any(name == library or name.startswith(library + ".") for library in LIBRARIES):
            continue
        for attribute, value in list(vars(module).items()):
            look(f"{name}.{attribute}", value)
            if isinstance(value, type) and value.__module__ == name:
                for inner, member in list(vars(value).items()):
                    look(f"{name}.{attribute}.{inner}", member)
            elif isinstance(value, dict) and not attribute.startswith("__"):
                for key, member in list(value.items()):
                    look(f"{name}.{attribute}[{key}]", member)
    return sorted(found)


def state():
    "What is no function, before and after."
    return {
        "synchronize": torch.cuda.synchronize.__module__,
        "event": torch.cuda.Event.__module__,
        "hook": sys.excepthook is sys.__excepthook__,
        "to": DiffusionPipeline.to.__code__.co_filename.startswith(OURS),
        "group": dist.new_group.__code__.co_filename.startswith(OURS),
        "environment": [os.environ.get(name) for name in ("LOG_LEVEL", "TRANSFORMERS_VERBOSITY")],
        "level": logging.getLogger("transformers").level,
    }


sys.argv = ["xdit", "--tokenring_degree=2"]  # so that what it prints is changed too
os.environ.pop("LOG_LEVEL", None)
os.environ.pop("TRANSFORMERS_VERBOSITY", None)
assert not any("tokenring_xdit.hosts" in name for name in sys.modules)
before = state()

from tokenring_xdit.hosts import installed
from tokenring_xdit.hosts.xfuser import register

register()
import importlib
import xfuser, xfuser.cli, xfuser.logger
levels = xfuser.logger._root_logger.level, xfuser.logger._default_handler.level, xfuser.logger._LOG_LEVEL
names = [wait.what.removeprefix("import of ") for wait in installed().waiting]
for name in names:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # of a model that this diffusers does not have
while_installed, listed = ours(), [vars(change) for change in installed().changes]
from xfuser import xFuserArgs
added = hasattr(xFuserArgs, "tokenring_degree")
installed().undo()
left, after = ours(), state()
gone = not hasattr(xFuserArgs, "tokenring_degree")
installed().attach("a_module_of_another_host", print)
register()
again = [vars(change) for change in installed().changes]
print(json.dumps(dict(
    before=before, after=after, listed=listed, while_installed=while_installed, left=left, added=added, gone=gone,
    again=again, levels=levels,
)))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What a process has seen that attached TokenRing to xfuser, undid that, and attached it again."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={**os.environ, "TOKENRING_AUTOLOAD": "0"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.e2e
def test_all_that_is_changed_is_listed(told: dict[str, Any]) -> None:
    """As far as it can be found by looking for functions of this package in other libraries."""
    listed = {change["what"] for change in told["listed"]}
    assert len(told["while_installed"]) > 50
    for place in told["while_installed"]:
        # Names that a library imports from the module that was changed are found there too.
        assert any(place.rpartition(".")[2].partition("[")[0] in name for name in listed), place
    for change in told["listed"]:
        assert change["by"].startswith("tokenring_xdit.hosts.")
        assert change["why"].endswith("."), change
    assert {
        "xfuser.model_executor.layers.usp.ring_attn",
        "xfuser.config.args.xFuserArgs.create_config",
        "diffusers.hooks.first_block_cache.FBCHeadBlockHook._should_compute_remaining_blocks",
        "sys.excepthook",
        "os.environ[LOG_LEVEL]",
        "os.environ[TRANSFORMERS_VERBOSITY]",
    } <= listed


@pytest.mark.e2e
def test_shims_for_cpus_are_listed(told: dict[str, Any]) -> None:
    what = {
        "torch.cuda.synchronize",
        "torch.cuda.Event",
        "diffusers.pipelines.pipeline_utils.DiffusionPipeline.to",
        "xfuser.envs.get_torch_distributed_backend",
    }
    found = {change["what"] for change in told["listed"]}
    assert told["before"]["synchronize"] == "torch.cuda"
    assert what <= found


@pytest.mark.e2e
def test_after_undoing_everything_is_what_it_was(told: dict[str, Any]) -> None:
    assert told["left"] == []
    assert told["after"] == told["before"]
    assert told["added"]
    assert told["gone"]


@pytest.mark.e2e
def test_it_can_be_attached_again(told: dict[str, Any]) -> None:
    """Also where another host was attached in between."""
    what = {change["what"] for change in told["listed"]}
    assert {change["what"] for change in told["again"]} == what
