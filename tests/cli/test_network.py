from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

import tokenring_xdit.lab.network  # noqa: F401  before the privileges to read it are gone
from tests.support import commands
from tokenring_xdit.cli import main

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Not root, whoever runs the tests."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.usefixtures("unprivileged")
@pytest.mark.parametrize("command", [["check", "mesh:2:10mbit"], ["clean"]])
def test_it_needs_root_and_says_so(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert main(["network", *command]) == 2
    err = capsys.readouterr().err
    assert "which only root may make, and this is user" in err
    assert "sudo" in err


@pytest.mark.usefixtures("unprivileged")
def test_a_network_that_does_not_exist_is_refused_before_asking_for_root(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["network", "check", "mush:2:10mbit"]) == 2
    assert "Did you mean 'mesh'?" in capsys.readouterr().err


@pytest.mark.netns
@needs_root
def test_check_prints_what_each_link_carried() -> None:
    result = commands.run("network", "check", "star:3:50mbit")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("network star:3:50mbit")
    assert [line.split()[:4] for line in lines[2:5]] == [[f"h{i}", "-", "switch", "50mbit"] for i in range(3)]
    assert "all hosts at once (3 transfers)" in lines[5]


@pytest.mark.netns
@needs_root
def test_a_network_that_this_machine_cannot_carry_fails_the_check() -> None:
    result = commands.run("network", "check", "mesh:2:1tbit", "--json")
    assert result.returncode == 1
    assert "at least 90% has to arrive" in result.stderr
    answer = json.loads(result.stdout)
    assert answer["good"] is False
    assert answer["links"][0]["there"]["stated"] == 10**12
    assert 0 < answer["links"][0]["there"]["share"] < 0.9
