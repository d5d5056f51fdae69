"""Who may import whom, by folder, as docs/architecture.md says; and what must stay light."""

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "odsg_lightning"
SMALL = {"errors", "names", "text"}  # import nothing of ours: everything may use them
ALLOWED = {
    "errors": set(),
    "names": set(),
    "text": set(),
    "types": set(),
    "environment": set(),
    "doctor": {"environment", "detectors"},
    "files": set(),
    "yaml_files": {"files"},
    "rehearsal": set(),
    "config_files": set(),
    "saliency": {"types"},
    "explainers": {"saliency", "types"},
    "occlusion": {"saliency", "types"},
    "metrics": {"saliency", "occlusion"},
    "viz": {"saliency"},
    "detectors": {"saliency", "types", "files", "yaml_files", "config_files"},
    "records": {"files", "environment"},
    "audit": {"records", "explainers", "detectors", "metrics", "occlusion", "saliency", "viz", "types"},
    "explanations": {"explainers", "audit", "detectors", "saliency", "viz", "types"},
    "adapter_check": {"audit", "detectors", "explanations", "saliency", "types"},
    "sanity": {"audit", "detectors", "explainers", "gate", "metrics", "saliency", "viz", "types"},
    "data": {"records", "files", "yaml_files", "types"},
    "training": {"data", "detectors", "types"},
    "callback": {"audit", "records", "detectors", "metrics", "saliency", "files", "types"},
    "comparison": {"report", "gate", "audit", "records", "explainers", "metrics", "occlusion", "saliency", "viz"}
    | {"files", "types"},
    "checkpoints": {"comparison", "explanations", "explainers", "sanity", "audit", "data", "records", "detectors"}
    | {"saliency"}
    | {"files", "rehearsal", "environment", "types"},
    "gate": {"records", "files", "yaml_files"},
    "report": {"records", "viz", "gate"},
    "demo": {"callback", "training", "data", "records", "saliency", "files"},
    "cli": {"demo", "checkpoints", "callback", "training", "gate", "report", "data", "audit", "records"}
    | {"comparison", "explainers", "sanity", "saliency", "files", "environment", "config_files", "doctor"},
}
WITHOUT_TORCH = ("records", "gate", "report", "cli")
FOLDERS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of all imports, those inside functions too, but not those for type checkers alone."""
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


def graph(package: Path) -> dict[str, set[str]]:
    """Which modules of a package import which others of it."""
    known = modules(package)

    def module(name: str) -> str | None:
        while name and name not in known:
            name = name.rpartition(".")[0]
        return name or None

    edges = {}
    for name, path in known.items():
        targets = {module(target) for target in imported(ast.parse(path.read_text(encoding="utf-8")))}
        edges[name] = {target for target in targets if target is not None and target != name}
    return edges


def violations(package: Path, allowed: dict[str, set[str]]) -> list[str]:
    """Imports from one folder (or top-level module) to another that are not allowed."""
    found = []
    for name, targets in graph(package).items():
        part = name.partition(".")[2].partition(".")[0]
        for target in sorted(targets):
            other = target.partition(".")[2].partition(".")[0]
            if part and other and other not in {part, *SMALL, *allowed.get(part, set())}:
                found.append(f"{name} imports {target}")
    return found


def circles(package: Path) -> list[list[str]]:
    """Modules that import one another, however far around."""
    edges = graph(package)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in edges[waiting.pop()] - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    reach = {name: reached(name) for name in edges}
    return sorted({tuple(sorted(o for o in reach[n] if n in reach[o])) for n in edges if n in reach[n]})


def in_fresh_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)


def test_every_folder_has_its_place():
    top = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert set(FOLDERS) | top == set(ALLOWED)


def test_imports_follow_the_architecture():
    assert violations(PACKAGE, ALLOWED) == []


def test_no_modules_import_one_another_in_a_circle():
    assert circles(PACKAGE) == []


def test_folders_are_layers_without_a_circle():
    order: list[str] = []
    while len(order) < len(ALLOWED):
        ready = [part for part in ALLOWED if part not in order and ALLOWED[part] | SMALL - {part} <= {*order, *SMALL}]
        assert ready, f"a circle among {set(ALLOWED) - set(order)}"
        order += ready


def test_one_module_imports_detectron2():
    users = {
        name
        for name, path in modules(PACKAGE).items()
        if any(target.split(".")[0] == "detectron2" for target in imported(ast.parse(path.read_text("utf-8"))))
    }
    assert users == {"odsg_lightning.detectors.detectron2_names"}


def test_no_file_is_above_300_lines():
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def everything_below(folder: str) -> str:
    names = [name for name in modules(PACKAGE) if name.split(".")[1:2] == [folder] and not name.endswith("__main__")]
    return f"import sys, {', '.join(names)}\n"


def loaded_by(folders: Sequence[str], packages: Sequence[str]) -> str:
    """Return the first folder whose import loads one of the packages, and which; empty for none."""
    code = "".join(
        everything_below(folder)
        + f"found = [p for p in {list(packages)} if p in sys.modules]\nif found: sys.exit(print({folder!r}, *found))\n"
        for folder in folders
    )
    result = in_fresh_python(code)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.strip()


def test_no_torch_is_loaded_by_files_gate_and_report():
    assert loaded_by(WITHOUT_TORCH, ["torch", "lightning"]) == ""


def test_no_detectron2_is_loaded_by_the_callback_and_what_it_needs():
    assert loaded_by(["saliency", "viz", "metrics", "data", "audit", "callback"], ["detectron2"]) == ""


def test_a_package_that_is_loaded_is_seen():
    assert loaded_by(["records", "metrics"], ["torch"]) == "metrics torch"


def test_the_package_itself_loads_the_standard_library_alone():
    code = "import sys; before = set(sys.modules); import odsg_lightning; print(*(set(sys.modules) - before))"
    loaded = {name.partition(".")[0] for name in in_fresh_python(code).stdout.split()}
    assert loaded - sys.stdlib_module_names == {"odsg_lightning"}


def package(folder: Path, files: dict[str, str]) -> Path:
    root = folder / "house"
    for name, text in {"__init__.py": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (path.parent / "__init__.py").touch()
    return root


def test_a_forbidden_import_is_seen_wherever_it_stands(tmp_path):
    files = {
        "attic/box.py": "def f():\n    from house.cellar import wine\n",
        "cellar/wine.py": "import house.garden.tree\nfrom house import names\n",
        "garden/tree.py": "",
        "names.py": "",
        "errors.py": "",
    }
    root = package(tmp_path, files)
    assert violations(root, {"attic": {"cellar"}, "cellar": {"garden"}}) == []
    assert violations(root, {"attic": set(), "cellar": set()}) == [
        "house.attic.box imports house.cellar.wine",
        "house.cellar.wine imports house.garden.tree",
    ]


def test_a_circle_is_seen_but_not_one_for_type_checkers(tmp_path):
    files = {
        "a.py": "from house import b",
        "b.py": "def f():\n    import house.c",
        "c.py": "from house.a import x",
        "d.py": "if TYPE_CHECKING:\n    from house import e",
        "e.py": "from house import d",
    }
    assert circles(package(tmp_path, files)) == [("house.a", "house.b", "house.c")]
