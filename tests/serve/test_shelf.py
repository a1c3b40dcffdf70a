"""Where videos wait to be fetched."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image

from tokenring_xdit.errors import OutputError
from tokenring_xdit.serve.shelf import VideoShelf

for package in ("imageio", "imageio_ffmpeg"):
    pytest.importorskip(package)

FRAMES = [Image.new("RGB", (16, 16))] * 2


@pytest.fixture(scope="module")
def size() -> int:
    """Bytes of a video of these frames."""
    shelf = VideoShelf(10**6)
    found = shelf.add("a", FRAMES, 8)
    assert found.path.read_bytes() == shelf.read("a")
    assert (found.frames, found.fps, found.size) == (2, 8, found.path.stat().st_size)
    shelf.close()
    return found.size


def folder_of(shelf: VideoShelf) -> Path:
    return Path(shelf._folder.name)


def test_the_oldest_make_room_and_nothing_is_left(size: int) -> None:
    shelf = VideoShelf(5 * size // 2)
    for name in ("a", "b", "c"):
        shelf.add(name, FRAMES, 8)
    assert [shelf.find(name) is None for name in "abc"] == [True, False, False]
    assert sorted(path.name for path in folder_of(shelf).iterdir()) == ["b.mp4", "c.mp4"]
    assert shelf.read("a") is None
    shelf.remove("b")
    shelf.remove("b")
    assert [path.name for path in folder_of(shelf).iterdir()] == ["c.mp4"]
    shelf.close()
    assert not folder_of(shelf).exists()


def test_one_that_is_larger_than_all_room_is_refused_and_leaves_nothing(size: int) -> None:
    shelf = VideoShelf(size - 1)
    with pytest.raises(OutputError, match=f"the video has {size} bytes, and this server keeps {size - 1} at most"):
        shelf.add("a", FRAMES, 8)
    assert list(folder_of(shelf).iterdir()) == []
    shelf.close()


def test_after_its_time_one_is_removed() -> None:
    shelf = VideoShelf(10**6, seconds=0.05)
    shelf.add("a", FRAMES, 8)
    time.sleep(0.1)
    assert shelf.find("a") is None
    assert list(folder_of(shelf).iterdir()) == []
    shelf.close()
