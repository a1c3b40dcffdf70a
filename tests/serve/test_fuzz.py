"""Requests that are made up from the description which a server gives of itself: none may make it fail."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.serve.client import Client
from tests.serve.servers import Served, ready, served
from tests.support.families import FAMILIES
from tests.support.language import small_model_folder

schemathesis = pytest.importorskip("schemathesis")
for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "imageio_ffmpeg"):
    pytest.importorskip(package)

from tests.serve.test_app import served as served_made_up  # noqa: E402

pytestmark = pytest.mark.e2e

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
"""What is looked at in each answer, as schemathesis names it."""

SMALL = ("--max-pixels", "4096", "--max-steps", "2", "--max-tokens", "64", "--max-frames", "5")


def embedded(folder: Path) -> tuple[str, ...]:
    return ("embedded", "size=64", "steps=1")


def small_wan(folder: Path) -> tuple[str, ...]:
    FAMILIES["wan-t2v"].make().save_pretrained(folder / "model")
    return (str(folder / "model"), "size=64", "steps=1", "frames=5")


def small_language(folder: Path) -> tuple[str, ...]:
    small_model_folder(folder / "model")
    return (str(folder / "model"), "options={max_new_tokens: 2}")


Words = Callable[[Path], tuple[str, ...]]


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    words: Words = request.param
    folder = tmp_path_factory.mktemp("server")
    said = words(folder)
    with served(folder, Path(said[0]).name, *said, *SMALL) as found:
        yield found


def fuzz(client: Client, examples: int) -> int:
    """Ask for all that the server says it does; returns how many requests that were."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{client.port}/openapi.json")
    checks = [check for check in schemathesis.checks.CHECKS.get_all() if check.__name__ in CHECKS]
    assert len(checks) == len(CHECKS)
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            nonlocal asked
            asked += 1
            case.validate_response(case.call(timeout=300), checks=checks)

        ask()
    return asked


def undamaged(process: subprocess.Popen[str], client: Client) -> bool:
    """Whether a server is still there, and said nothing of a failure in its log."""
    assert ready(client)
    process.terminate()
    assert process.stderr is not None
    log = process.stderr.read()
    assert "Traceback" not in log, log
    return process.wait() == 0


def test_a_few_made_up_requests() -> None:
    """Of a server whose engine is made up; the one of ranks is asked more."""
    with served_made_up(None, None, "size=64", "steps=1") as (client, _):
        assert fuzz(client, 5) > 20
        assert ready(client)


@pytest.mark.matrix
@pytest.mark.parametrize("server", [embedded, small_wan, small_language], indirect=True)
def test_many_made_up_requests(server: Served) -> None:
    process, client = server
    assert fuzz(client, 100) > 300
    assert undamaged(process, client)
