"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.support.compatibility import record
from tests.support.families import ALL_FAMILIES
from tests.support.ranks import RankPool

settings.register_profile("tests", deadline=None, derandomize=True)  # wall time proves nothing here
settings.load_profile("tests")

gc.disable()  # while tests are collected, of which none is garbage


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--support FILE``: where the support matrix goes; ``--support-uses FILE``: where its section on uses goes.

    ``--support-diffusers FILE``: where what was found of the diffusers host goes. ``--uses-log FILE``: what was found
    of uses, so that a run of an hour may be divided. ``--compatibility FILE``: where the versions that a whole run
    passed with go.
    """
    parser.addoption("--support", metavar="FILE", help="write the support matrix that the tests of marker matrix found")
    parser.addoption(
        "--support-uses", metavar="FILE", help="write the section on uses that the tests of marker matrix found"
    )
    parser.addoption(
        "--support-diffusers", metavar="FILE", help="write what the tests of the diffusers host found into this page"
    )
    parser.addoption("--uses-log", metavar="FILE", help="keep what is found of uses, and do not run again what is kept")
    parser.addoption(
        "--compatibility", metavar="FILE", help="write down the versions, if all tests ran and none failed"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``@pytest.mark.cases(names, params)``: as ``parametrize``, but those of the matrix are made where it is run."""
    for mark in metafunc.definition.iter_markers("cases"):
        names, params = mark.args
        if re.search(r"\bnot\b.*\bmatrix\b", metafunc.config.option.markexpr):
            whole = metafunc.definition.get_closest_marker("matrix") is not None
            params = [each for each in params if not whole and "matrix" not in {own.name for own in each.marks}]
        metafunc.parametrize(names, params)


def pytest_collection_finish() -> None:
    """Have the collector of garbage never look at the tests."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """Let it find what would else be called a leak at the end of the process."""
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Write down the versions of a run that was whole."""
    file, found = config.getoption("--compatibility"), terminalreporter.stats
    whole = config.args == config.getini("testpaths") and not config.option.keyword and not config.option.collectonly
    passed = len(found.get("passed", []))
    if file is not None and exitstatus == 0 and whole and passed:
        record(Path(file), passed, len(found.get("skipped", [])))


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that take the pool of ranks; skip those of pipelines that the installed diffusers does not have."""
    for item in items:
        if "ranks" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ranks)
        callspec = getattr(item, "callspec", None)
        values = [getattr(value, "family", value) for value in (callspec.params.values() if callspec else ())]
        values += [key for mark in item.iter_markers("family") for key in mark.args]
        for key in values:
            family = ALL_FAMILIES.get(key.partition(",")[0]) if isinstance(key, str) else None
            if family is not None and family.missing:
                item.add_marker(pytest.mark.skip(f"{family.title} needs diffusers {family.since}"))


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankPool]:
    """One pool of worker ranks for the whole session."""
    pool = RankPool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def gpu_ranks() -> Iterator[RankPool]:
    """The same on GPUs, over NCCL; ranks share them where there are fewer."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    pool = RankPool("nccl")
    yield pool
    pool.close()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this package found out for whoever runs the tests is not for them; models of the hub are."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    hub = os.environ.get("HF_HOME") or str(Path(caches) / "huggingface")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HF_HOME", hub)
        own = tmp_path_factory.mktemp("cache")
        patched.setenv("XDG_CACHE_HOME", str(own))
        yield
        shutil.rmtree(own, ignore_errors=True)  # it may hold a model


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Shells start what they put in the background deaf to Ctrl-C; tests that press it have to be heard."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
