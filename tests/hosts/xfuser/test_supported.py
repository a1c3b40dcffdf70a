from __future__ import annotations

from pathlib import Path

import pytest

from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.xfuser.supported import wrapper_class


def test_a_model_that_the_installed_diffusers_lacks_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_wrapper.py").write_text("from diffusers import NoSuchTransformer2DModel\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnsupportedError) as refused:
        wrapper_class("a_wrapper:Wrapper")
    said = str(refused.value)
    assert "cannot shard this model with diffusers " in said
    assert "(cannot import name 'NoSuchTransformer2DModel' from 'diffusers')" in said
    assert "use a newer diffusers" in said
