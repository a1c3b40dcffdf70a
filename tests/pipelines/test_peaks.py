"""What is left of a container's memory, of files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tokenring_xdit.pipelines import peaks
from tokenring_xdit.pipelines.peaks import PeakMeter

MIB = 2**20


@pytest.mark.parametrize(
    ("most", "stat", "left"),
    [
        ("32", "anon 8\nactive_file 1\ninactive_file 19\nfile_mapped 0\nshmem 0", 22),  # a model that was read
        ("32", "anon 8\nactive_file 12\ninactive_file 8\nfile_mapped 14\nshmem 2", 10),  # one that is mapped
        ("32", "active_file 20\ninactive_file 20", 32),
        ("32", None, 2),
        ("max", "active_file 12\ninactive_file 8", None),
    ],
)
def test_what_the_system_drops_is_free_in_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: str, stat: str | None, left: int | None
) -> None:
    monkeypatch.setattr(peaks, "_GROUP", tmp_path)
    meter = PeakMeter(torch.device("cpu"), 2)
    whole = meter._free()
    if whole is None:
        pytest.skip("this system does not tell what is free")

    def write(name: str, text: str) -> None:
        (tmp_path / name).write_text(text + "\n")

    write("memory.max", most if most == "max" else str(int(most) * MIB))
    write("memory.current", str(30 * MIB))
    if stat is not None:
        numbers = (line.split() for line in stat.splitlines())
        write("memory.stat", "\n".join(f"{name} {int(number) * MIB}" for name, number in numbers))
    if left is None:
        assert (meter._free() or 0) > 32 * MIB
    else:
        assert meter._free() == left * MIB // 2
