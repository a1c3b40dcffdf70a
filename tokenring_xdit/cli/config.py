"""``tokenring-xdit config``: look at configs without running them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenring_xdit import shipped
from tokenring_xdit.errors import ConfigurationError, ModelUnreachableError, TokenRingError
from tokenring_xdit.messages import one_line

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its subcommands."""
    parser = commands.add_parser("config", help="check or show a YAML config, or print what can stand in one")
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")

    check = subcommands.add_parser(
        "check",
        help="find all mistakes of configs, without running them",
        description="Find all mistakes of configs. Models are looked at as well, as far as they are on this machine or "
        "the hub can be reached: degrees and sizes have to fit them.",
        epilog="example: tokenring-xdit config check configs/*.yaml, or configs/flux-tokenring-8gpu.yaml steps=4",
    )
    check.add_argument(
        "configs", nargs="+", metavar="config or key=value", help="YAML files, and values that replace those of each"
    )
    check.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    check.set_defaults(run=_check)

    show = subcommands.add_parser(
        "show",
        help="print a config with all defaults and overrides filled in",
        epilog="example: tokenring-xdit config show configs/flux-tokenring-8gpu.yaml steps=4",
    )
    show.add_argument("config", type=Path, help="the YAML file")
    show.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace those of the file")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=_show)

    listing = subcommands.add_parser(
        "list",
        help="list the configs that ship with the package",
        epilog="example: tokenring-xdit config list, then tokenring-xdit config copy flux-tokenring-8gpu",
    )
    listing.add_argument("--json", action="store_true", help="print the list as JSON")
    listing.set_defaults(run=_list)

    copy = subcommands.add_parser(
        "copy",
        help="copy a config that ships with the package, and those that it extends",
        epilog="example: tokenring-xdit config copy flux-tokenring-8gpu --to .",
    )
    copy.add_argument("name", help="of config list")
    copy.add_argument("--to", type=Path, default=Path(), metavar="FOLDER", help="default: the working folder")
    copy.set_defaults(run=_copy)

    schema = subcommands.add_parser(
        "schema",
        help="print what can stand in a config",
        epilog="example: tokenring-xdit config schema --json > tokenring.schema.json (for editors)",
    )
    schema.add_argument("--json", action="store_true", help="print the JSON schema")
    schema.set_defaults(run=_schema)


def _check(args: argparse.Namespace) -> None:
    files = [Path(text) for text in args.configs if "=" not in text or _exists(text)]
    overrides = [text for text in args.configs if Path(text) not in files]
    if not files:
        raise ConfigurationError(f"{one_line(' '.join(overrides))}: name a config before what to replace in it")
    verdicts = [_verdict(path, overrides) for path in files]
    if args.json:
        print(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
    else:
        for verdict in verdicts:
            if verdict.mistakes is None:
                but = f", but {verdict.unseen}" if verdict.unseen else ""
                print(f"{one_line(verdict.config)}: fine{but}")
    wrong = [verdict.mistakes for verdict in verdicts if verdict.mistakes is not None]
    if wrong:
        raise ConfigurationError("\n".join(wrong))


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # an override may be longer than names of files can be
        return False


@dataclass(frozen=True)
class _Verdict:
    """What is wrong with a config, and why its model could not be looked at; ``None`` where nothing is."""

    config: str
    mistakes: str | None = None
    unseen: str | None = None


def _verdict(path: Path, overrides: list[str]) -> _Verdict:
    from tokenring_xdit.config import read_config
    from tokenring_xdit.pipelines.run import RunConfig, inspect_model

    try:
        read_config(RunConfig, path, overrides, inspect=inspect_model)
    except ModelUnreachableError as error:
        return _Verdict(str(path), unseen=f"the model was not looked at: {error}")
    except TokenRingError as error:
        return _Verdict(str(path), mistakes=str(error))
    return _Verdict(str(path))


def _show(args: argparse.Namespace) -> None:
    import yaml

    from tokenring_xdit.config import read_config
    from tokenring_xdit.pipelines.run import RunConfig

    values = read_config(RunConfig, args.config, args.overrides).model_dump(mode="json")
    print(json.dumps(values, indent=2) if args.json else yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _list(args: argparse.Namespace) -> None:
    found = {name: _purpose(path) for name, path in shipped.configs().items()}
    if args.json:
        print(json.dumps([{"name": name, "purpose": purpose} for name, purpose in found.items()], indent=2))
        return
    for name, purpose in found.items():
        print(f"{name:<32} {purpose}")


def _purpose(path: Path) -> str:
    """The first line of the comment that a config begins with."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip().rstrip(":.")


def _copy(args: argparse.Namespace) -> None:
    for path in shipped.copy_config(args.name, args.to):
        print(path)


def _schema(args: argparse.Namespace) -> None:
    from tokenring_xdit.pipelines.run import RunConfig

    schema = RunConfig.file_schema()
    if args.json:
        print(json.dumps(schema, indent=2))
        return
    for key, field in schema["properties"].items():
        default = f"default: {json.dumps(field['default'])}" if "default" in field else "required"
        print(f"{key:<18} {field['description']} ({default})")
