"""Reads ``gate.yaml`` strictly, and writes it."""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.gate.config import CHECKS, DEFAULT_FLOORS, CategoryRule, GateConfig, Margin, Rule
from odsg_lightning.yaml_files import read_yaml

_FORMER = {"coverage": "recall"}


def read_gate_config(path: str | Path) -> GateConfig:
    """Read a ``gate.yaml``; what it leaves out keeps its default.

    Raises:
        UserInputError: there is none, it is no YAML, or it says something that the gate does not know; the message
            names the place and the closest thing that it does know.
    """
    try:
        content = read_yaml(path, "a configuration of the gate")
    except BrokenInputError as error:  # it is a setting rather than an input: exit code 2
        raise UserInputError(str(error)) from error
    try:
        return parse_gate_config(content)
    except UserInputError as error:
        raise UserInputError(f"{path}: {error}") from error


def parse_gate_config(content: Any) -> GateConfig:
    """Return the configuration that the content of a ``gate.yaml`` means.

    Raises:
        UserInputError: see :func:`read_gate_config`.
    """
    content = _mapping({} if content is None else content, "the file")
    _check_keys(content, ("confidence", "resamples", "seed", "checks", "categories", "no_baseline"), "the file")
    numbers = {name: content[name] for name in ("confidence", "resamples", "seed") if name in content}
    for name, value in numbers.items():
        _scalar(value, name)
    checks = dict(GateConfig().checks)
    for pattern, entries in _mapping(content.get("checks", {}), "`checks`").items():
        values = _values(entries, ("margin", "floor", "level"), f"`checks: {pattern}`")
        checks |= {name: replace(checks[name], **values) for name in _matching(pattern)}
    categories = _values(content.get("categories", {}), ("margin", "min_objects", "level"), "`categories`")
    floors: dict[str, float | None] = {**DEFAULT_FLOORS}
    for pattern, floor in _mapping(content.get("no_baseline", {}), "`no_baseline`").items():
        _scalar(floor, f"{pattern}` of `no_baseline")
        floors |= dict.fromkeys(_matching(pattern), floor)
    return GateConfig(
        **numbers,
        checks=checks,
        categories=replace(CategoryRule(), **categories),
        no_baseline={name: floor for name, floor in floors.items() if floor is not None},
    )


def _matching(pattern: Any) -> list[str]:
    matching = [name for name in CHECKS if isinstance(pattern, str) and fnmatchcase(name, pattern)]
    if not matching:
        raise UserInputError(
            f"Expected a check or a pattern of them, but got {_shown(pattern)}{_hint(pattern, CHECKS)}."
        )
    return matching


def gate_config_text(config: GateConfig, comment: str = "") -> str:
    """Return a complete ``gate.yaml``; reading it gives the same configuration."""
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += [f"{name}: {getattr(config, name)}" for name in ("confidence", "resamples", "seed")]
    lines.append("checks:")
    lines += [f"  {name}: {_rule_text(config.checks[name])}" for name in CHECKS]
    categories = config.categories
    lines.append(
        f"categories: {{margin: {_quoted(categories.margin)}, min_objects: {categories.min_objects}, "
        f'level: "{categories.level}"}}'
    )
    floors = {name: config.no_baseline.get(name) for name in CHECKS if name in {*DEFAULT_FLOORS, *config.no_baseline}}
    lines.append("no_baseline:")
    lines += [f"  {name}: {_floor_text(floor)}" for name, floor in floors.items()]
    return "\n".join(lines) + "\n"


def _values(entries: Any, known: tuple[str, ...], place: str) -> dict[str, Any]:
    values = dict(_mapping(entries, place))
    _check_keys(values, known, place)
    for name, value in values.items():
        _scalar(value, f"{name}` of {place[1:-1]}")
    if values.get("level") is False:  # YAML's own reading of a bare `off`
        values["level"] = "off"
    if "margin" in values:
        values["margin"] = _margin(values["margin"], place)
    return values


def _margin(value: Any, place: str) -> Margin:
    try:
        if isinstance(value, str) and value.strip().endswith("%"):
            return Margin(round(float(value.strip()[:-1]) / 100, 12), relative=True)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return Margin(value)
    except ValueError:
        pass
    raise UserInputError(
        f'Expected `margin` in {place} to be a number from 0 to 1 or a share such as "10%", but got {_shown(value)}.'
    )


def _mapping(value: Any, place: str) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise UserInputError(f"Expected {place} to be a mapping, but got {_shown(value)}.")
    return value


def _check_keys(values: Mapping[Any, Any], known: tuple[str, ...], place: str) -> None:
    for key in values:
        if key not in known:
            raise UserInputError(
                f"Expected {place} to hold only {', '.join(known)}, but got the key {_shown(key)}{_hint(key, known)}."
            )


def _scalar(value: Any, name: str) -> None:
    if isinstance(value, (dict, list, set, tuple)):
        raise UserInputError(f"Expected `{name}` to be a single value, but got {_shown(value)}.")


def _shown(value: Any) -> str:
    """Name a value shortly; a few bytes of YAML can stand for a list whose text fills the memory."""
    return f"a {type(value).__name__}" if isinstance(value, (dict, list, set, tuple)) else repr(value)[:80]


def _hint(key: Any, known: tuple[str, ...]) -> str:
    if key in _FORMER and _FORMER[key] in known:
        return f" (which is called {_FORMER[key]!r} now)"
    close = get_close_matches(str(key)[:80], known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _rule_text(rule: Rule) -> str:
    return f'{{margin: {_quoted(rule.margin)}, floor: {_floor_text(rule.floor)}, level: "{rule.level}"}}'


def _floor_text(floor: float | None) -> str:
    return "null" if floor is None else f"{floor:.10g}"


def _quoted(margin: Margin) -> str:
    return f'"{margin}"' if margin.relative else str(margin)
