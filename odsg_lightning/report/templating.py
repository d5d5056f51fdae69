"""How a page is made of its template: one style, nothing loaded, text of unknown origin escaped."""

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from odsg_lightning import __version__
from odsg_lightning.report.changes import share
from odsg_lightning.report.gallery import status_words
from odsg_lightning.text import for_page

_TEMPLATES = Path(__file__).parent / "templates"
_AFTER_SEPARATOR = re.compile(r"([/_.-]+)(?=[^/_.\s-])")


def rendered(template: str, content: Mapping[str, Any], script: str | None = None) -> str:
    """Return a page, which holds its style and its script and may load or run nothing else.

    Args:
        template: name of its file.
        content: what the template shows.
        script: name of the script's file; None for a page without one.
    """
    code = None if script is None else (_TEMPLATES / script).read_text("utf-8")
    digest = None if code is None else base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii")
    held = {
        "version": __version__,
        "style": Markup((_TEMPLATES / "page.css").read_text("utf-8")),
        "script": None if code is None else Markup(code),
        "script_sha256": digest,
    }
    return _environment().get_template(template).render({**content, **held})


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": share, "status": status_words, "breaks": _breaks}
    return environment


def _breaks(text: str) -> Markup:
    """Escape a name, and let it break behind what separates its parts."""
    return Markup(_AFTER_SEPARATOR.sub(r"\1<wbr>", str(escape(for_page(text)))))


def _harmless(value: Any) -> Any:
    """Replace the characters of a record's text that no page should hold; the template escapes the rest."""
    return for_page(value) if type(value) is str else value
