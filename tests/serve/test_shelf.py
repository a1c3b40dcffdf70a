"""Where videos wait to be fetched."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image

from tokenring_xdit.errors import OutputError
from tokenring_xdit.serve import shelf as room
from tokenring_xdit.serve.shelf import VideoShelf

FRAMES = [Image.new("RGB", (16, 16))] * 2


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of ten bytes."""
    monkeypatch.setattr(room, "save", lambda frames, path, frames_per_second: Path(path).write_bytes(b"0123456789"))


def folder_of(shelf: VideoShelf) -> Path:
    return Path(shelf._folder.name)


def test_the_oldest_make_room_and_nothing_is_left() -> None:
    shelf = VideoShelf(25)
    for name in ("a", "b", "c"):
        video = shelf.add(name, FRAMES, 8)
    assert (video.size, video.frames, video.fps) == (10, 2, 8)
    assert [shelf.find(name) is None for name in "abc"] == [True, False, False]
    assert sorted(path.name for path in folder_of(shelf).iterdir()) == ["b.mp4", "c.mp4"]
    assert (shelf.read("b"), shelf.read("a")) == (b"0123456789", None)
    shelf.remove("b")
    shelf.remove("b")
    assert [path.name for path in folder_of(shelf).iterdir()] == ["c.mp4"]
    shelf.close()
    assert not folder_of(shelf).exists()


def test_one_that_is_larger_than_all_room_is_refused_and_leaves_nothing() -> None:
    shelf = VideoShelf(9)
    with pytest.raises(OutputError, match="the video has 10 bytes, and this server keeps 9 at most"):
        shelf.add("a", FRAMES, 8)
    assert list(folder_of(shelf).iterdir()) == []
    shelf.close()


def test_after_its_time_one_is_removed() -> None:
    shelf = VideoShelf(100, seconds=0.05)
    shelf.add("a", FRAMES, 8)
    time.sleep(0.1)
    assert shelf.find("a") is None
    assert list(folder_of(shelf).iterdir()) == []
    shelf.close()
