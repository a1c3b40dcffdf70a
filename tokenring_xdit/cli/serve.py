"""``tokenring-xdit serve``: an HTTP service on an engine."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenring_xdit.config import read_config
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.keys import KEY_VARIABLE, checked_key
from tokenring_xdit.serve.config import AnyServeConfig, RequestLimits, serve_schema, unserved

__all__ = ["serve_command"]

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")

_LOOPBACK = ("127.", "::1", "localhost")


def serve_command(args: argparse.Namespace) -> None:
    """Serve until told to end."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigurationError(f"serve needs {', '.join(missing)}: pip install 'tokenring-xdit[serve]'")
    path, values = _said(args)
    if args.ray is not None:
        values = [*values, f"ray={args.ray}"]
    config: AnyServeConfig = read_config(serve_schema, path, values, unserved)
    limits = _limits(args)
    key = checked_key(os.environ.get(KEY_VARIABLE) if args.api_key is None else args.api_key)
    if config.ignored:
        print(f"note: {', '.join(config.ignored)} of the config: requests say that here", file=sys.stderr)
    if key is None and not args.host.startswith(_LOOPBACK):
        print(f"note: without --api-key, anyone who reaches {args.host} may send requests", file=sys.stderr)
    from tokenring_xdit.serve.server import serve

    waits = {"timeout": args.timeout, "grace": args.grace}
    serve(config, limits, host=args.host, port=args.port, key=key, page=args.ui, **waits)


def _said(args: argparse.Namespace) -> tuple[Path | None, list[str]]:
    """The config, if one is named, and what replaces values of it."""
    strange = [text for text in args.values if "=" not in text]
    if strange:
        raise ConfigurationError(f"'{strange[0]}': a server has one config or model; what follows it is key=value")
    if Path(args.what).suffix.lower() in {".yaml", ".yml"}:
        return Path(args.what), args.values
    return None, [f"model={args.what}", *args.values]


def _limits(args: argparse.Namespace) -> RequestLimits:
    given: dict[str, Any] = {
        name: value
        for name in ("waiting", "pixels", "frames", "steps", "tokens", "stored", "body", "upload")
        if (value := getattr(args, f"max_{name}")) is not None
    }
    for name, value in given.items():
        if value < 1:
            raise ConfigurationError(f"--max-{name} is {value}; it has to be at least 1")
    for name in ("timeout", "grace"):
        seconds = getattr(args, name)
        if not 0 < seconds <= threading.TIMEOUT_MAX:
            raise ConfigurationError(f"--{name} is {seconds}; it has to be a positive number of seconds")
    return RequestLimits(**given)
