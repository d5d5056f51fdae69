"""Reads ``gate.yaml`` strictly, and writes it."""

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped] # its stubs are not installed

from odsg_lightning.audit.files import BrokenInputError, regular_file
from odsg_lightning.audit.gate.config import CHECKS, CategoryRule, GateConfig, Margin, Rule

_MAX_BYTES = 2**20


def read_gate_config(path: str | Path) -> GateConfig:
    """Read a ``gate.yaml``; what it leaves out keeps its default.

    Raises:
        ValueError: there is none, it is no YAML, or it says something that the gate does not know; the message names
            the place and the closest thing that it does know.
    """
    try:
        text = regular_file(path, "a configuration of the gate", _MAX_BYTES).read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_StrictLoader)
    except BrokenInputError as error:
        raise ValueError(str(error)) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        cause = " ".join(str(error).split())[:300]
        raise ValueError(f"Expected a configuration of the gate at {path}, but {cause}.") from error
    try:
        return parse_gate_config(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_gate_config(content: Any) -> GateConfig:  # noqa: ANN401 - whatever YAML holds
    """Return the configuration that the content of a ``gate.yaml`` means.

    Raises:
        ValueError: see :func:`read_gate_config`.
    """
    content = _mapping({} if content is None else content, "the file")
    _check_keys(content, ("confidence", "resamples", "seed", "checks", "categories"), "the file")
    numbers = {name: content[name] for name in ("confidence", "resamples", "seed") if name in content}
    for name, value in numbers.items():
        _scalar(value, name)
    checks = dict(GateConfig().checks)
    for pattern, entries in _mapping(content.get("checks", {}), "`checks`").items():
        matching = [name for name in CHECKS if isinstance(pattern, str) and fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(
                f"Expected a check or a pattern of them, but got {_shown(pattern)}{_hint(pattern, CHECKS)}."
            )
        values = _values(entries, ("margin", "floor", "level"), f"`checks: {pattern}`")
        checks |= {name: replace(checks[name], **values) for name in matching}
    categories = _values(content.get("categories", {}), ("margin", "min_objects", "level"), "`categories`")
    return GateConfig(**numbers, checks=checks, categories=replace(CategoryRule(), **categories))


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
    return "\n".join(lines) + "\n"


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that comes twice, of which YAML would keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: ANN401 - untyped there
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ValueError(f"the key {key.value[:80]!r} comes twice in line {key.start_mark.line + 1}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _values(entries: Any, known: tuple[str, ...], place: str) -> dict[str, Any]:  # noqa: ANN401 - any YAML value
    values = dict(_mapping(entries, place))
    _check_keys(values, known, place)
    for name, value in values.items():
        _scalar(value, f"{name}` of {place[1:-1]}")
    if values.get("level") is False:  # YAML's own reading of a bare `off`
        values["level"] = "off"
    if "margin" in values:
        values["margin"] = _margin(values["margin"], place)
    return values


def _margin(value: Any, place: str) -> Margin:  # noqa: ANN401 - any YAML scalar
    try:
        if isinstance(value, str) and value.strip().endswith("%"):
            return Margin(round(float(value.strip()[:-1]) / 100, 12), relative=True)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return Margin(value)
    except ValueError:
        pass
    raise ValueError(
        f'Expected `margin` in {place} to be a number from 0 to 1 or a share such as "10%", but got {_shown(value)}.'
    )


def _mapping(value: Any, place: str) -> Mapping[Any, Any]:  # noqa: ANN401 - any YAML value
    if not isinstance(value, dict):
        raise ValueError(f"Expected {place} to be a mapping, but got {_shown(value)}.")
    return value


def _check_keys(values: Mapping[Any, Any], known: tuple[str, ...], place: str) -> None:
    for key in values:
        if key not in known:
            raise ValueError(
                f"Expected {place} to hold only {', '.join(known)}, but got the key {_shown(key)}{_hint(key, known)}."
            )


def _scalar(value: Any, name: str) -> None:  # noqa: ANN401 - any YAML value
    if isinstance(value, (dict, list, set, tuple)):
        raise ValueError(f"Expected `{name}` to be a single value, but got {_shown(value)}.")


def _shown(value: Any) -> str:  # noqa: ANN401 - any YAML value
    """Name a value shortly; a few bytes of YAML can stand for a list whose text fills the memory."""
    return f"a {type(value).__name__}" if isinstance(value, (dict, list, set, tuple)) else repr(value)[:80]


def _hint(key: Any, known: tuple[str, ...]) -> str:  # noqa: ANN401 - any YAML key
    close = get_close_matches(str(key)[:80], known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _rule_text(rule: Rule) -> str:
    floor = "null" if rule.floor is None else f"{rule.floor:.10g}"
    return f'{{margin: {_quoted(rule.margin)}, floor: {floor}, level: "{rule.level}"}}'


def _quoted(margin: Margin) -> str:
    return f'"{margin}"' if margin.relative else str(margin)
