import subprocess
import sys

import pytest

from odsg_lightning.errors import BrokenInputError, MissingFileError
from odsg_lightning.yaml_files import MAX_YAML_VALUES, read_yaml


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "file.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ("# nothing but a comment\n", None),
        ("a: [1, 2.5, null, true, 'ä']", {"a": [1, 2.5, None, True, "ä"]}),
        ("base: &base {x: 1, y: 2}\nb: {<<: *base, x: 3}", {"base": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}),
        # A mapping that overrides what it merges is merged itself, by one that is read before it.
        (
            "base: &base {x: 1}\nouter: {inner: &a {<<: *base, x: 2}}\nb: {<<: *a}",
            {"base": {"x": 1}, "outer": {"inner": {"x": 2}}, "b": {"x": 2}},
        ),
        ("a: &a [1]\nb: [*a, *a]", {"a": [1], "b": [[1], [1]]}),
        ("1: number\n'1': text", {1: "number", "1": "text"}),
    ],
)
def test_plain_yaml_is_read(yaml_file, text, content):
    assert read_yaml(yaml_file(text), "a thing") == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' comes twice in line 3"),
        ("a: {b: {c: 1, 'c': 2}}", "the key 'c' comes twice in line 1"),
        ("a: &a {x: 1}\nb: &b {x: 2}\nc: {<<: *a, <<: *b}", "the key '<<' comes twice"),
        ("a: &a [*a]", "its aliases stand for more than 20000 values"),
        ("a: [", "while parsing"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: *nobody", "found undefined alias 'nobody'"),
        ("\x00", "special characters are not allowed"),
        ("a: 2001-99-99", "month must be in 1..12"),
        (f"a: {'9' * 5000}", "digits"),
        ("[" * 2000, "recursion"),
        ("? [1, 2]\n: 3", "found unhashable key"),
        ("a: {<<: 3}", "expected a mapping or list of mappings for merging"),
        ("a: " + "x" * 2**20, "of at most 0.125 MiB"),
    ],
)
def test_yaml_that_is_none_or_says_one_thing_twice_is_refused(yaml_file, text, message):
    path = yaml_file(text)
    with pytest.raises(BrokenInputError, match=message) as caught:
        read_yaml(path, "a thing")
    assert str(caught.value).startswith(f"Expected a thing at {path}")
    assert "run code" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text",
    ["!!bool x", "!!int ''", "!!float ''", "!!timestamp x", "!!map [1]", "!!seq {a: 1}", "a: 1" + ":59" * 200 + ".5"],
)
def test_a_value_that_does_not_fit_its_tag_is_refused(yaml_file, text):
    with pytest.raises(BrokenInputError, match=r"Expected a thing at .*file\.yaml, but"):
        read_yaml(yaml_file(text), "a thing")


def test_other_bytes_than_utf_8_are_refused(tmp_path):
    (tmp_path / "file.yaml").write_bytes(b"a: \xff")
    with pytest.raises(BrokenInputError, match="codec can't decode"):
        read_yaml(tmp_path / "file.yaml", "a thing")


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:pathlib.Path.touch [{}]",
        "!!python/object/new:os.system ['touch {}']",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!made_up 1",
    ],
)
def test_a_tag_that_would_run_code_is_refused_and_runs_none(yaml_file, tmp_path, tag):
    path = yaml_file(f"a: {tag.format(tmp_path / 'ran')}")
    with pytest.raises(BrokenInputError, match="a YAML tag that would run code, which is refused"):
        read_yaml(path, "a thing")
    assert not (tmp_path / "ran").exists()


def bomb(first, line, depth):
    """Each line stands for nine times the one before it."""
    return "\n".join([f"a0: &a0 {first}", *(f"a{i}: &a{i} {line([f'*a{i - 1}'] * 9)}" for i in range(1, depth))])


BOMBS = {
    "lists": lambda depth: bomb("[x]", lambda names: f"[{', '.join(names)}]", depth),
    "merges": lambda depth: bomb("{x: 1}", lambda names: f"{{<<: [{', '.join(names)}]}}", depth),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_of_aliases_is_refused_before_it_goes_off(yaml_file, kind):
    """Less than 500 bytes that stand for 40 million values; and 3 KiB that stand for 9**40."""
    for depth in (9, 41):
        path = yaml_file(BOMBS[kind](depth))
        code = f"from odsg_lightning.yaml_files import read_yaml; read_yaml({str(path)!r}, 'a thing')"
        limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)); {code}"
        done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False, timeout=600)
        assert f"aliases stand for more than {MAX_YAML_VALUES} values" in done.stderr


@pytest.mark.parametrize("kind", BOMBS)
def test_a_few_aliases_are_read(yaml_file, kind):
    assert len(read_yaml(yaml_file(BOMBS[kind](4)), "a thing")) == 4


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [("none.yaml", MissingFileError, "No such file or directory"), (".", BrokenInputError, "it is a folder")],
)
def test_a_missing_yaml_file_and_a_folder_are_told_apart(tmp_path, name, kind, message):
    with pytest.raises(BrokenInputError, match=f"Expected a thing at .*, but {message}") as caught:
        read_yaml(tmp_path / name, "a thing")
    assert type(caught.value) is kind
    assert isinstance(caught.value, FileNotFoundError) == (kind is MissingFileError)


@pytest.mark.parametrize("value", ["a,", "[],", "{},"])
def test_more_values_than_any_configuration_has_are_not_read_to_their_end(yaml_file, value):
    path = yaml_file(f"[{value * 30_000}a]")
    with pytest.raises(BrokenInputError, match=f"it holds more than {MAX_YAML_VALUES} values"):
        read_yaml(path, "a thing")
