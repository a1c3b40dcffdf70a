"""A YAML file and ``key=value`` overrides, checked against a pydantic model; every mistake is reported at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tokenring_xdit.errors import ConfigurationError, ModelUnreachableError, TokenRingError, nearest
from tokenring_xdit.messages import listed, named, names_of, one_line, shown
from tokenring_xdit.yaml_files import MOST_LEVELS, parse_yaml, read_yaml

__all__ = ["Config", "parsed_by", "read_config"]


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


def parsed_by(parse: Callable[[Any], Any]) -> BeforeValidator:
    """Have the value of a key read as it is read everywhere else; what is refused there is a mistake of the key.

    Args:
        parse: Reads it, and raises errors of this package.
    """

    def parsed(value: Any) -> Any:
        try:
            return parse(value)
        except TokenRingError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(parsed)


_Config = TypeVar("_Config", bound=Config)


def read_config(
    describes: type[_Config] | Callable[[Mapping[str, Any]], type[_Config]],
    path: Path | None,
    overrides: Sequence[str] = (),
    inspect: Callable[[_Config], list[str]] | None = None,
) -> _Config:
    """Read and check a file, or what a command line says without one.

    Args:
        describes: What may stand in it; or what says that, from the values that are said, those of overrides as text.
        path: The file; ``None`` where the overrides say all.
        overrides: ``key=value`` each, which replace what the file says; ``key.inner=value`` reaches into
            a mapping. Values are YAML; those of keys that take text are taken as they are.
        inspect: Finds mistakes that show outside the file, such as in a model that it names. Where keys are
            wrong it gets a config with their defaults instead.

    Raises:
        ConfigurationError: The file cannot be read, or has mistakes; the message lists all of them.
        ModelUnreachableError: ``inspect`` raised it, and nothing else is wrong.
    """
    values, mistakes = ({}, []) if path is None else _parse(path)
    said = {**values, **{key: text for key, _, text in (override.partition("=") for override in overrides)}}
    schema = cast("type[_Config]", describes) if isinstance(describes, type) else describes(said)
    mistakes += _override(values, overrides, schema)
    unusable = _unusable(values)
    mistakes += unusable.values()
    values = {key: value for key, value in values.items() if key not in unusable}
    wrong = set(unusable)
    try:
        config: _Config | None = schema.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        wrong |= {str(detail["loc"][0]) for detail in details if detail["loc"]}
        mistakes += _all_in_words([detail for detail in details if detail["loc"][0] not in unusable], schema)
        config = _with_defaults(schema, values, wrong)
    defaults = {key: field.get_default(call_default_factory=True) for key, field in schema.model_fields.items()}
    try:
        mistakes += schema.mistakes_between({k: v for k, v in {**defaults, **values}.items() if k not in wrong})
        if inspect is not None and config is not None:
            mistakes += inspect(config)
    except ModelUnreachableError as error:
        if not mistakes:
            raise ModelUnreachableError(one_line(str(error))) from error
    except OSError as error:  # something is named that no file can be called, for one
        mistakes.append(f"{shown(error.filename)}: {error.strerror}")
    except (ValueError, ArithmeticError) as error:  # a number in a name has more digits than Python reads
        mistakes.append(f"a value cannot be used: {one_line(str(error))}")
    if mistakes:
        what = "the command line" if path is None else one_line(str(path))
        count = f"{what} has a mistake:" if len(mistakes) == 1 else f"{what} has {len(mistakes)} mistakes:"
        raise ConfigurationError(listed(count, mistakes))
    assert config is not None
    return config


def _with_defaults(schema: type[_Config], values: Mapping[str, Any], wrong: set[str]) -> _Config | None:
    """The config with defaults where keys are wrong, or ``None`` where one of them has none."""
    try:
        return schema.model_validate({key: value for key, value in values.items() if key not in wrong})
    except ValidationError:
        return None


_MOST_EXTENDED = 16
_LIMITS_OF_YAML = {"values": 20_000, "characters": 1_000_000}


def _parse(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The values of a file over those of the file that it extends, and what is wrong with them so far."""
    values, mistakes = _parse_alone(path)
    first = path
    seen, base = {path.resolve()}, values.pop("extends", None)
    inside = ""
    while base is not None:
        if not isinstance(base, str):
            return values, [*mistakes, f"extends: {_kind(base)} where the name of a file belongs{inside}"]
        path = path.parent / base
        if not _is_file(path):
            return values, [*mistakes, f"extends: there is no file {shown(str(path))}{inside}"]
        if path.resolve() in seen:
            return values, [*mistakes, f"extends: {shown(str(path))} extends itself in the end"]
        if len(seen) > _MOST_EXTENDED:
            raise ConfigurationError(
                f"{one_line(str(first))}: extends: more than {_MOST_EXTENDED} files, each of which extends the next"
            )
        seen.add(path.resolve())
        inside = f" (in {one_line(str(path))})"
        inherited, more = _parse_alone(path)
        base = inherited.pop("extends", None)
        values = {**inherited, **values}
        mistakes += [mistake + inside for mistake in more]
    return values, mistakes


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no file can have such a name
        return False


def _parse_alone(path: Path) -> tuple[dict[str, Any], list[str]]:
    what = one_line(str(path))
    values, mistakes = read_yaml(path, what, **_LIMITS_OF_YAML)
    if values is None:
        raise ConfigurationError(f"{what} is empty; 'tokenring-xdit config schema' lists its keys")
    if not isinstance(values, dict):
        raise ConfigurationError(f"{what} holds {_kind(values)} where keys with values belong, such as 'steps: 28'")
    strange = [f"{shown(key)}: a key has to be text" for key in values if not isinstance(key, str)]
    return {k: _apart(v) for k, v in values.items() if isinstance(k, str)}, strange + mistakes


def _apart(value: Any) -> Any:
    """A value in which nothing stands in two places, so that an override changes it in one."""
    if isinstance(value, dict):
        return {key: _apart(part) for key, part in value.items()}
    return [_apart(part) for part in value] if isinstance(value, list) else value


def _override(values: dict[str, Any], overrides: Sequence[str], schema: type[Config]) -> list[str]:
    mistakes = []
    properties = schema.model_json_schema()["properties"]
    for override in overrides:
        key, equals, text = override.partition("=")
        outer, *inner = key.split(".")
        if not equals or not all((outer, *inner)):
            mistakes.append(f"{shown(override)} on the command line: it has to be key=value, such as steps=28")
            continue
        if outer == "extends":
            mistakes.append(
                f"{shown(override)} on the command line: a file extends another one; name the other one instead"
            )
            continue
        if len(inner) >= MOST_LEVELS:
            mistakes.append(f"{shown(override)} on the command line: it reaches into more than {MOST_LEVELS} mappings")
            continue
        as_it_is = not inner and _takes_text(properties.get(outer, {})) and not _is_literal(text)
        value: Any = text
        if not as_it_is:
            with suppress(ConfigurationError):
                value = _apart(parse_yaml(text, shown(override), **_LIMITS_OF_YAML)[0])
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
            for text in (key, *_texts(value)):
                text.encode()
                if _control(text) is not None:
                    found[key] = f"{named(key)}: has a {_control(text)} character"
        except UnicodeEncodeError as error:
            found[key] = f"{named(key)}: has a character that Unicode does not have, {error.object[error.start]!r}"
        except _TooDeepError:
            found[key] = f"{named(key)}: is nested too deeply, more than {MOST_LEVELS} values in each other"
    return found


def _control(text: str) -> str | None:
    """The first character of a text that a terminal would obey, in words; line ends and tabs are none."""
    for character in text:
        if character not in "\n\t" and (character < " " or "\x7f" <= character <= "\x9f"):
            return "NUL" if character == "\0" else f"control (#x{ord(character):02x})"
    return None


class _TooDeepError(Exception):
    """Values stand in too many others."""


def _texts(value: Any, levels: int = 1) -> Iterator[str]:
    """All texts in a value, keys included."""
    if isinstance(value, str):
        yield value
    if not isinstance(value, (dict, list)):
        return
    if levels >= MOST_LEVELS:
        raise _TooDeepError
    for part in (*value, *value.values()) if isinstance(value, dict) else value:
        yield from _texts(part, levels + 1)


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


_MOST_IN_WORDS = 50
"""Mistakes that are put into words; of more nobody reads the rest, and looking for near spellings takes its time."""


def _all_in_words(details: Sequence[Any], schema: type[Config]) -> list[str]:
    """Mistakes that pydantic found, each with the key, its value, and what is allowed."""
    found, known = [], schema.model_fields.keys()
    unknown = False
    for detail in details[:_MOST_IN_WORDS]:
        key = str(detail["loc"][0])
        if detail["type"] != "extra_forbidden" or len(detail["loc"]) > 1:
            found.append(_in_words(detail, schema))
        elif key in schema.other_names:
            found.append(f"{key}: there is no such key; it is called '{schema.other_names[key]}' here")
        else:  # what is known is listed once
            hint = nearest(key, known)
            hint = hint.partition(".")[2].strip() if unknown else hint
            found.append(f"{named(key)}: there is no such key{'. ' if hint else ''}{hint}")
            unknown = True
    return found + [f"{named(detail['loc'][0])}: wrong as well" for detail in details[_MOST_IN_WORDS:]]


def _in_words(detail: Any, schema: type[Config]) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    outer = detail["loc"][0]
    # What stands behind the key and the positions inside it are names of alternatives, which nobody wrote.
    key = named(outer) + "".join(f"[{part}]" for part in detail["loc"][1:] if isinstance(part, int))
    if kind == "missing":
        return f"{key}: is missing; {schema.model_fields[str(outer)].description}"
    if kind in {"enum", "literal_error"}:
        allowed = [part.strip(" '\"") for part in context["expected"].replace(" or ", ", ").split(",")]
        return f"{key}: {shown(value)} is not allowed. {nearest(named(value), allowed)}"
    if kind in _LIMITS:
        bound, words = _LIMITS[kind]
        return f"{key}: {shown(value)} is not allowed; it has to be {words} {context[bound]}"
    if kind == "value_error":
        return f"{key}: {one_line(str(context['error']))}"
    if kind == "finite_number":
        return f"{key}: {shown(value)} is not a finite number"
    if kind in {"string_too_short", "too_short"}:
        return f"{key}: is empty; {schema.model_fields[str(outer)].description}"
    if kind == "extra_forbidden":
        return f"{key}: there is no such key as '{named(detail['loc'][-1])}' in it"
    expected = _KINDS.get(kind.partition("_")[0])
    if expected is None:
        return f"{key}: {shown(value)}: {one_line(detail['msg'])}"
    hint = ""
    if expected == "text" and value is not None and not isinstance(value, (dict, list)):
        hint = "; put it in quotes"
    return f"{key}: {_kind(value)} where {expected} belongs{hint}"


def _kind(value: Any) -> str:
    """A value and what it is, as somebody who writes YAML would say."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (which YAML also reads from yes, no, on and off)"
    if isinstance(value, dict):
        return f"a mapping with {names_of(value)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"the text {shown(value)}" if isinstance(value, str) else shown(value)
