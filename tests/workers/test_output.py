"""What ranks print does not grow without bound."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tokenring_xdit.workers.output import KEPT_BYTES, PrintedOutput, kept_file
from tokenring_xdit.workers.pool import WorkerPool

LINE = "0123456789 " * 10


@pytest.fixture
def output() -> Iterator[PrintedOutput]:
    found = PrintedOutput()
    yield found
    found.close()


def held(output: PrintedOutput) -> int:
    """Bytes of memory."""
    return os.fstat(output.descriptor).st_blocks * 512


def test_little_is_kept_as_it_is(output: PrintedOutput) -> None:
    os.write(output.descriptor, b"one\ntwo\n")
    output.trim()
    assert output.text() == "one\ntwo\n"


def test_of_much_the_end_is_kept_and_the_beginning_takes_no_memory(output: PrintedOutput) -> None:
    most = 0
    for number in range(100_000):
        os.write(output.descriptor, f"{number} {LINE}\n".encode())
        output.trim()
        most = max(most, held(output)) if number % 100 == 0 else most
    assert os.fstat(output.descriptor).st_size > 10 * KEPT_BYTES
    assert KEPT_BYTES <= most <= 2 * KEPT_BYTES + 2**16
    first, *lines = output.text().splitlines()
    assert first == "(what was printed before is not kept)"
    assert lines == [f"{number} {LINE}" for number in range(100_000 - len(lines), 100_000)]
    assert len("\n".join(lines)) > KEPT_BYTES - 2 * len(LINE)
    assert "\0" not in output.text()


def test_files_that_errors_refer_to_are_removed_after_many_others() -> None:
    files = [kept_file("rank0.log", str(number)) for number in range(40)]
    left = [file for file in files if file.exists()]
    assert left == files[-32:]
    assert [file.read_text() for file in left] == [str(number) for number in range(8, 40)]


@pytest.mark.e2e
@pytest.mark.matrix
def test_a_rank_that_prints_much_is_held_to_it() -> None:
    """Which is looked at whenever it answers."""
    with WorkerPool("tests.workers.obedient", 1) as pool:
        (worker,) = pool.workers
        for _ in range(8):
            pool.ask(f"print('x' * {KEPT_BYTES // 2}, flush=True)")
        pool.ask("print('the end', flush=True)")
        descriptor = worker._output.descriptor  # type: ignore[attr-defined]
        assert os.fstat(descriptor).st_size > 4 * KEPT_BYTES
        assert os.fstat(descriptor).st_blocks * 512 < 3 * KEPT_BYTES
        assert worker.printed().endswith("the end\n")
