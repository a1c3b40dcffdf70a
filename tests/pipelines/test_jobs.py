from __future__ import annotations

from pathlib import Path

import pytest

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.integrations.xfuser import Degrees
from tokenring_xdit.pipelines.jobs import CompareJob, GenerateJob, Job, Picture, Strategy, load_job, save_job
from tokenring_xdit.pipelines.model import PictureSize

PICTURE = Picture("folder", "a “prompt”", PictureSize(96, 64), 4, 7, 3.5, 24, "float32")
JOBS: list[Job] = [
    GenerateJob(PICTURE, Degrees(ulysses=2, tokenring=2, schedule="ring"), "picture.png"),
    CompareJob(PICTURE, (Strategy("Ring", Degrees(ring=2)), Strategy("Ulysses", Degrees(), "why")), 3, "sheet.png"),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_jobs_travel_as_json(tmp_path: Path, job: Job) -> None:
    save_job(job, tmp_path / "job.json")
    assert load_job(tmp_path / "job.json") == job


@pytest.mark.parametrize(("text", "size"), [("64", (64, 64)), ("96x64", (96, 64)), ("1024X768", (1024, 768))])
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert PictureSize.parse(text) == PictureSize(*size)


@pytest.mark.parametrize("text", ["", "x", "64x", "x64", "-8", "64x64x64", "0", "6.5"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a number of pixels nor"):
        PictureSize.parse(text)
