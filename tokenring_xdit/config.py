"""A YAML file and ``key=value`` overrides, checked against a pydantic model; every mistake is reported at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenring_xdit.errors import ConfigurationError, ModelUnreachableError, nearest

__all__ = ["Config", "read_config"]


class Config(BaseModel):
    """Base of what a YAML file can describe: unknown keys and lax conversions are mistakes."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, strict=True)

    other_names: ClassVar[Mapping[str, str]] = {}
    """Names that people try from elsewhere, and the keys that they mean."""

    extends: str | None = Field(None, description="config that this one starts from, beside this file")

    @classmethod
    def file_schema(cls) -> dict[str, Any]:
        """The JSON schema of one file: what it must say may stand in the one that it extends."""
        schema = cls.model_json_schema()
        required = schema.pop("required", [])
        extended = {"properties": {"extends": {"type": "string"}}, "required": ["extends"]}
        return schema | {"anyOf": [{"required": required}, extended]} if required else schema

    @classmethod
    def mistakes_between(cls, values: Mapping[str, Any]) -> list[str]:
        """Mistakes that no key makes alone.

        Args:
            values: The keys whose own values are sound, with defaults; the others are left out.
        """
        return []


_Config = TypeVar("_Config", bound=Config)


def read_config(
    schema: type[_Config],
    path: Path,
    overrides: Sequence[str] = (),
    inspect: Callable[[_Config], list[str]] | None = None,
) -> _Config:
    """Read and check a file.

    Args:
        schema: What may stand in it.
        path: The file.
        overrides: ``key=value`` each, which replace what the file says; ``key.inner=value`` reaches into
            a mapping. Values are YAML; those of keys that take text are taken as they are.
        inspect: Finds mistakes that show outside the file, such as in a model that it names. Where keys are
            wrong it gets a config with their defaults instead.

    Raises:
        ConfigurationError: The file cannot be read, or has mistakes; the message lists all of them.
        ModelUnreachableError: ``inspect`` raised it, and nothing else is wrong.
    """
    values, mistakes = _parse(path, ())
    mistakes += _override(values, overrides, schema)
    unusable = _unusable(values)
    mistakes += unusable.values()
    values = {key: value for key, value in values.items() if key not in unusable}
    wrong = set(unusable)
    try:
        config: _Config | None = schema.model_validate(values)
    except ValidationError as error:
        wrong |= {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
        mistakes += [_in_words(detail, schema) for detail in error.errors() if detail["loc"][0] not in unusable]
        config = _with_defaults(schema, values, wrong)
    defaults = {key: field.get_default(call_default_factory=True) for key, field in schema.model_fields.items()}
    mistakes += schema.mistakes_between({k: v for k, v in {**defaults, **values}.items() if k not in wrong})
    if inspect is not None and config is not None:
        try:
            mistakes += inspect(config)
        except ModelUnreachableError:
            if not mistakes:
                raise
    if mistakes:
        count = f"{path} has a mistake:" if len(mistakes) == 1 else f"{path} has {len(mistakes)} mistakes:"
        raise ConfigurationError("\n  ".join([count, *mistakes]))
    assert config is not None
    return config


def _with_defaults(schema: type[_Config], values: Mapping[str, Any], wrong: set[str]) -> _Config | None:
    """The config with defaults where keys are wrong, or ``None`` where one of them has none."""
    try:
        return schema.model_validate({key: value for key, value in values.items() if key not in wrong})
    except ValidationError:
        return None


class _Loader(yaml.SafeLoader):
    """PyYAML's, which by itself lets the last of several equal keys win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.repeated = getattr(self, "repeated", [])
        seen: dict[Any, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in seen:
                self.repeated.append(f"{key.value}: stands on line {seen[key.value]} and again on line {line}")
            seen.setdefault(key.value, line)
        return super().construct_mapping(node, deep)


def _parse(path: Path, below: tuple[Path, ...]) -> tuple[dict[str, Any], list[str]]:
    """The values of a file over those of the file that it extends, and what is wrong with them so far."""
    values, mistakes = _parse_alone(path)
    base = values.pop("extends", None)
    if base is None:
        return values, mistakes
    if not isinstance(base, str):
        return values, [*mistakes, f"extends: {_kind(base)} where the name of a file belongs"]
    found = path.parent / base
    if not found.is_file():
        return values, [*mistakes, f"extends: there is no file '{found}'"]
    if found.resolve() in {file.resolve() for file in (path, *below)}:
        return values, [*mistakes, f"extends: '{found}' extends itself in the end"]
    inherited, more = _parse(found, (path, *below))
    return {**inherited, **values}, mistakes + [f"{mistake} (in {found})" for mistake in more]


def _parse_alone(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"{path} cannot be read: {reason}") from error
    try:
        loader = _Loader(text)
        values = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigurationError(f"{path} is not YAML: {where}{error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigurationError(
            f"{path} is not YAML: line {line} has a control character, #x{error.character:02x}"
        ) from error
    except RecursionError as error:
        raise ConfigurationError(f"{path} is nested too deeply") from error
    except ValueError as error:  # a date that does not exist, for one
        raise ConfigurationError(f"{path} has a value that cannot be read: {error}; put it in quotes") from error
    if values is None:
        raise ConfigurationError(f"{path} is empty; 'tokenring-xdit config schema' says what can stand in it")
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} holds {_kind(values)} where keys with values belong, such as 'steps: 28'")
    strange = [f"{key!r}: a key has to be text" for key in values if not isinstance(key, str)]
    return {k: v for k, v in values.items() if isinstance(k, str)}, strange + getattr(loader, "repeated", [])


def _override(values: dict[str, Any], overrides: Sequence[str], schema: type[Config]) -> list[str]:
    mistakes = []
    properties = schema.model_json_schema()["properties"]
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            mistakes.append(f"'{override}' on the command line: it has to be key=value, such as steps=28")
            continue
        outer, *inner = key.split(".")
        if outer == "extends":
            mistakes.append(f"'{override}' on the command line: a file extends another one; name the other one instead")
            continue
        as_it_is = not inner and _takes_text(properties.get(outer, {})) and not _is_literal(text)
        try:
            value = text if as_it_is else yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            value = text
        target = values
        for part in (outer, *inner)[:-1]:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        target[(outer, *inner)[-1]] = value
    return mistakes


def _takes_text(field: Mapping[str, Any]) -> bool:
    return field.get("type") == "string" or any(_takes_text(part) for part in field.get("anyOf", ()))


def _is_literal(text: str) -> bool:
    """Whether a text can only be meant as YAML: a list, or nothing."""
    return text.startswith("[") or text in {"", "null", "~"}


def _unusable(values: Mapping[str, Any]) -> dict[str, str]:
    """What YAML and the command line can express and nothing can be done with, by key."""
    found = {}
    for key, value in values.items():
        try:
            for text in _texts(value, set(), set()):
                text.encode()
                if "\0" in text:
                    found[key] = f"{key}: has a NUL character"
        except UnicodeEncodeError as error:
            found[key] = f"{key}: has a character that Unicode does not have, {error.object[error.start]!r}"
        except RecursionError:
            found[key] = f"{key}: contains itself"
    return found


def _texts(value: Any, around: set[int], seen: set[int]) -> Iterator[str]:
    """All texts in a value, keys included, those of a part that stands in several places once."""
    if isinstance(value, str):
        yield value
    if not isinstance(value, (dict, list)) or id(value) in seen:
        return
    if id(value) in around:
        raise RecursionError
    for part in (*value, *value.values()) if isinstance(value, dict) else value:
        yield from _texts(part, around | {id(value)}, seen)
    seen.add(id(value))


_LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "keys with values",
    "list": "a list",
    "tuple": "a list",
}


def _in_words(detail: Any, schema: type[Config]) -> str:
    """A mistake that pydantic found: the key, its value, and what is allowed."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    # What stands behind the key and the positions inside it are names of alternatives, which nobody wrote.
    key = str(detail["loc"][0]) + "".join(f"[{part}]" for part in detail["loc"][1:] if isinstance(part, int))
    if kind == "extra_forbidden" and key in schema.other_names:
        return f"{key}: there is no such key; it is called '{schema.other_names[key]}' here"
    if kind == "extra_forbidden":
        return f"{key}: there is no such key. {nearest(key, schema.model_fields)}"
    if kind == "missing":
        return f"{key}: is missing; {schema.model_fields[key].description}"
    if kind in {"enum", "literal_error"}:
        allowed = [part.strip(" '\"") for part in context["expected"].replace(" or ", ", ").split(",")]
        return f"{key}: {_quoted(value)} is not allowed. {nearest(str(value), allowed)}"
    if kind in _LIMITS:
        bound, words = _LIMITS[kind]
        return f"{key}: {value} is not allowed; it has to be {words} {context[bound]}"
    if kind == "value_error":
        return f"{key}: {context['error']}"
    if kind == "finite_number":
        return f"{key}: {value} is not a finite number"
    if kind in {"string_too_short", "too_short"}:
        return f"{key}: is empty; {schema.model_fields[str(detail['loc'][0])].description}"
    expected = _KINDS.get(kind.partition("_")[0])
    if expected is None:
        return f"{key}: {_quoted(value)}: {detail['msg']}"
    hint = ""
    if expected == "text" and value is not None and not isinstance(value, (dict, list)):
        hint = "; put it in quotes"
    return f"{key}: {_kind(value)} where {expected} belongs{hint}"


def _quoted(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def _kind(value: Any) -> str:
    """A value and what it is, as somebody who writes YAML would say."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (which YAML also reads from yes, no, on and off)"
    if isinstance(value, dict):
        return f"a mapping with {_listed(value)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"the text '{value}'" if isinstance(value, str) else f"{value}"


def _listed(keys: Iterable[Any]) -> str:
    return ", ".join(map(str, keys))
