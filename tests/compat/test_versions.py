from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from tokenring_xdit.compat.versions import check_versions
from tokenring_xdit.errors import ConfigurationError


def install(folder: Path, name: str, version: str) -> None:
    """Put the metadata of a release where it is found before what is installed."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("torch", "2.7.1", "needs torch>=2.8, and torch 2.7.1 is installed: pip install 'torch>=2.8'"),
        ("torch", "2.8.0a0+34c6371d24.nv25.08", None),  # as a container has it
        ("torch", "3.0.0+cu140", None),
        ("xfuser", "0.8.1", "xfuser 0.8.1 is installed: pip install 'xfuser<0.8,>=0.7'"),
        ("xfuser", "0.6.0", "xfuser 0.6.0 is installed"),
        ("xfuser", "0.7.1.post1", None),
        ("diffusers", "0.34.0", "needs diffusers>=0.35, and diffusers 0.34.0 is installed"),
        ("diffusers", "0.36.0.dev0", None),
        ("transformers", "4.56.2", "transformers 4.56.2 is installed"),
    ],
)
def test_a_version_that_will_not_do_is_named(
    name: str, version: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, name, version)
    monkeypatch.syspath_prepend(str(tmp_path))
    check_versions.cache_clear()
    if said is None:
        check_versions()
    else:
        with pytest.raises(ConfigurationError) as refused:
            check_versions()
        assert said in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
    check_versions.cache_clear()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = metadata.version

    def version(name: str) -> str:
        if name == "diffusers":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr("tokenring_xdit.compat.versions.version", version)
    check_versions.cache_clear()
    with pytest.raises(ConfigurationError, match=r"needs diffusers>=.*, and it is not installed: pip install"):
        check_versions()
    check_versions.cache_clear()
