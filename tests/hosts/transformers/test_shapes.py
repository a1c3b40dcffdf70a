"""What forecasts of memory know of a model, read from the model."""

from __future__ import annotations

import pytest

from tests.hosts.transformers.models import language_model
from tokenring_xdit.hosts.transformers.shapes import shape_of


@pytest.mark.parametrize(
    ("kind", "eager", "biased"),
    [("llama", False, False), ("gemma2", True, False), ("gpt-oss", True, True), ("qwen3-moe", False, False)],
)
def test_what_takes_memory_is_read_from_the_model(kind: str, eager: bool, biased: bool) -> None:
    shape = shape_of(language_model(kind))
    assert (shape.eager, shape.biased_experts) == (eager, biased)
    assert shape.weights == shape.parameters
    assert (shape.experts > 1) is (kind in {"gpt-oss", "qwen3-moe"})
