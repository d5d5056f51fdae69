"""Who may import whom, as README's architecture section says."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "odsg_lightning"
ALLOWED = {
    "names": set(),
    "types": set(),
    "config_files": set(),
    "saliency": {"types"},
    "detectors": {"saliency", "types", "config_files"},
    "metrics": {"saliency", "types"},
    "viz": set(),
    "audit": {"saliency", "detectors", "metrics", "types"},
    "data": {"audit", "types"},
    "training": {"data", "audit", "saliency", "metrics", "viz", "detectors", "types"},
    "report": {"audit", "viz"},
    "demo": {"training", "data", "audit", "metrics", "saliency", "report", "types"},
    "cli": {"demo", "training", "data", "audit", "report", "saliency", "config_files"},
}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of all imports, but those for type checkers alone."""
    names = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        names |= imported(node)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_architecture(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    names = imported(ast.parse(path.read_text()))
    ours = {name.split(".")[1] for name in names if name.startswith("odsg_lightning.")}
    assert ours - {part, "names", "__version__"} <= ALLOWED[part]
    if any(name.split(".")[0] == "detectron2" for name in names):
        assert part in ("detectors", "training")
    if path.name in ("callback.py", "strips.py", "tally.py", "checks.py"):
        assert not any(name.startswith("odsg_lightning.training.module") for name in names)


def test_the_check_sees_imports():
    assert "a.b" in imported(ast.parse("def f():\n    from a import b"))
    assert imported(ast.parse("if TYPE_CHECKING:\n    import a")) == set()
