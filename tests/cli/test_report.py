import subprocess
import sys

import pytest
from helpers.records import make_record, write_with_maps

from odsg_lightning.cli import main


@pytest.fixture
def paths(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        write_with_maps(make_record(3, seed=seed), tmp_path / f"{name}.json")
    return [str(tmp_path / "a.json"), str(tmp_path / "b.json")]


def test_it_writes_one_page(paths, tmp_path, capsys):
    assert main(["report", *paths, "-o", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "<title>Audit of b against a</title>" in text
    assert capsys.readouterr().out == f"Report: {tmp_path / 'page.html'} ({len(text.encode()) / 2**20:.1f} MiB)\n"


def test_names_and_the_number_of_pictures_can_be_given(paths, tmp_path):
    page = tmp_path / "page.html"
    assert main(["report", *paths, "-o", str(page), "--names", "old", "new", "--max-strips", "1"]) == 0
    assert "<title>Audit of new against old</title>" in page.read_text()
    assert page.read_text().count("<img ") in (1, 2)


@pytest.mark.parametrize("content", ["", "{}", '{"schema": "odsg-audit-record/1"', "[NaN]"])
def test_a_broken_record_writes_nothing(paths, tmp_path, capsys, content):
    (tmp_path / "broken.json").write_text(content)
    assert main(["report", paths[0], str(tmp_path / "broken.json"), "-o", str(tmp_path / "page.html")]) == 3
    assert "broken.json" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_is_there_survives_broken_input(paths, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    (tmp_path / "a.maps.npz").write_bytes(b"other")
    assert main(["report", *paths, "-o", str(page)]) == 3
    assert page.read_text() == "old"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "{folder}"], "is a folder"),
        (["-o", "{folder}/a.json"], "to end in .html"),
        (["-o", "{folder}/none/page.html"], "No such file or directory"),
        (["-o", "{folder}/page.html", "--names", "one"], "Expected 2 different names"),
        (["-o", "{folder}/page.html", "--max-strips", "-1"], "Expected max_strips to be 0 or more"),
    ],
)
def test_mistakes_are_told_in_a_line(paths, tmp_path, capsys, arguments, message):
    assert main(["report", *paths, *(argument.format(folder=tmp_path) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


def loads_torch(code):
    code = f"import sys; {code}; sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=600).returncode == 1


def test_no_torch_is_loaded(paths, tmp_path):
    arguments = ["report", *paths, "-o", str(tmp_path / "page.html")]
    assert not loads_torch(f"from odsg_lightning.cli import main; assert main({arguments}) == 0")
    assert (tmp_path / "page.html").exists()
    assert loads_torch("import odsg_lightning.viz.strip")
