"""Where videos are kept."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.serve.made_up import job
from tokenring_xdit.errors import OutputError
from tokenring_xdit.serve.filming import Filming
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


def test_a_name_that_comes_again_replaces_its_video_on_a_full_shelf(size: int) -> None:
    shelf = VideoShelf(3 * size // 2)
    shelf.add("a", FRAMES, 8)
    again = shelf.add("a", FRAMES, 8)
    assert shelf.read("a") == again.path.read_bytes()
    assert shelf.names() == {"a"}
    shelf.close()


@pytest.mark.parametrize("stored", [False, True])
def test_only_what_is_to_be_kept_makes_others_make_room(size: int, stored: bool) -> None:
    shelf = VideoShelf(3 * size // 2)
    shelf.add("a", FRAMES, 8)
    drawing: Any = SimpleNamespace(make=lambda engine, job, most: [FRAMES])
    engine: Any = None
    (made,) = Filming(drawing, shelf).make(engine, job(name="b", stored=stored, fps=8), 1.0)
    assert shelf.names() == ({"b"} if stored else {"a"})
    assert len(list(folder_of(shelf).iterdir())) == 1
    assert len(made if isinstance(made, bytes) else made.path.read_bytes()) == size
    shelf.close()
