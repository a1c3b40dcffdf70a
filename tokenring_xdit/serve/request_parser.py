"""What is checked of every request, whatever is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from tokenring_xdit.messages import shown
from tokenring_xdit.pipelines.engine import Engine
from tokenring_xdit.serve.config import RequestLimits, ServeConfig, TextServeConfig
from tokenring_xdit.serve.engine_owner import EngineOwner
from tokenring_xdit.serve.errors import RefusedError

__all__ = ["RequestParser", "first_of"]


_Config = TypeVar("_Config", ServeConfig, TextServeConfig)


class RequestParser(ABC, Generic[_Config]):
    """Where requests are checked.

    Args:
        config: What is served.
        limits: What a request may ask for.
        owner: Owns the engine.
    """

    def __init__(self, config: _Config, limits: RequestLimits, owner: EngineOwner) -> None:
        self.config: _Config = config
        self.limits, self.owner = limits, owner

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """What ``/v1/models`` says of the model, beside OpenAI's fields."""

    def refuse_other(self, model: str | None) -> None:
        """Refuse what is for another model.

        Raises:
            RefusedError: It is.
        """
        if model is not None and model != self.config.name:
            message = f"model: there is no {shown(model)} here, only '{self.config.name}'"
            raise RefusedError(message, "model", status=404, code="model_not_found")

    def engine(self) -> Engine:
        """The engine, where it is ready.

        Raises:
            UnavailableError: It is not.
        """
        self.owner.refuse_unready()
        assert self.owner.engine is not None
        return self.owner.engine


def first_of(*values: Any) -> Any:
    """The first value that is one; ``None`` where none is."""
    return next((value for value in values if value is not None), None)
