from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenring_xdit.errors import OutputError
from tokenring_xdit.outputs import replacing, write_whole
from tokenring_xdit.pipelines.request import save


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


_random = np.random.default_rng(0)


def noise() -> Image.Image:
    """A picture that no format makes small."""
    return Image.fromarray(_random.integers(0, 255, (256, 256, 3), dtype=np.uint8))


def test_on_a_full_disk_what_was_there_stays_and_nothing_else(full: Path) -> None:
    old = Image.new("RGB", (8, 8), (200, 0, 0))
    save(old, full / "a.png")
    for name, content in (("a.png", noise()), ("b.png", noise()), ("v.mp4", [noise() for _ in range(8)])):
        with pytest.raises(OutputError) as refusal:
            save(content, full / name)
        assert str(refusal.value).startswith(f"{full / name} could not be written: ")
    with pytest.raises(OutputError, match=r"report\.json could not be written: No space left on device"):
        write_whole(full / "report.json", "a" * 100_000)
    assert os.listdir(full) == ["a.png"]
    assert Image.open(full / "a.png").getpixel((0, 0)) == (200, 0, 0)


def test_a_file_is_replaced_with_its_permissions_and_a_link_stays_one(tmp_path: Path) -> None:
    path, link = tmp_path / "a.txt", tmp_path / "link.txt"
    write_whole(path, "old")
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    path.chmod(0o640)
    link.symlink_to(path)
    write_whole(link, "ä")
    assert link.is_symlink()
    assert path.read_bytes() == "ä".encode()
    assert path.stat().st_mode & 0o777 == 0o640


def umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def test_after_an_error_nothing_has_changed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def write() -> None:
        with replacing(tmp_path / "a.txt") as draft:
            draft.write_text("half of")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_what_is_no_file_is_written_to() -> None:
    write_whole("/dev/null", "nothing")
    assert not Path("/dev/null").is_file()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        write_whole(tmp_path / "no" / "a.txt", "a")
