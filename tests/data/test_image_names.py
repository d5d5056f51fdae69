"""Names that another system wrote."""

import re
import unicodedata

import pytest

from odsg_lightning.data.coco_problems import BadRecordError
from odsg_lightning.data.image_names import ImageFolder

NAME = "Größe/Käfer 1.png"
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, NAME) for form in ("NFC", "NFD"))


def place(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return ImageFolder(folder)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("sub/1.png", "sub/1.png"),
        ("sub/1.png", "sub\\1.png"),
        ("a/b/1.png", ".\\a/b\\1.png"),
        ("sub\\1.png", "sub\\1.png"),  # as it stands, where a system allows it
        (COMPOSED, DECOMPOSED),
        (DECOMPOSED, COMPOSED),
        (DECOMPOSED, COMPOSED.replace("/", "\\")),
    ],
)
def test_found(tmp_path, file, name):
    assert place(tmp_path, file, "other/1.png").find(name) == file


def test_the_exact_name_goes_first(tmp_path):
    files = place(tmp_path, "ä.png", "a\u0308.png")
    assert [files.find(name) for name in ("ä.png", "a\u0308.png")] == ["ä.png", "a\u0308.png"]


def test_twins_are_named(tmp_path):
    files = place(tmp_path, "s/ä\u0308.png", "s/a\u0308\u0308.png")
    with pytest.raises(BadRecordError, match=re.escape(r"'s/\xe4\u0308.png'")) as error:
        files.find("s\\a\u0308\u0308.png")
    assert r"'s/a\u0308\u0308.png'" in str(error.value)


@pytest.mark.parametrize(
    ("file", "name", "hint"),
    [
        ("1.PNG", "1.png", "; there is '1.PNG'"),
        ("1.png", "images\\1.png", r" (its Windows separators are read as /); there is '1.png'"),
        ("1.png", "sub/1.png", "; there is '1.png'"),
        ("1.png", "2.png", None),
        ("1.png", "a" * 5000, None),
        ("1.png", "a\0b", None),
        ("folder.png/1.png", "folder.png", None),
    ],
)
def test_what_is_not_there_is_named_with_what_is_near(tmp_path, file, name, hint):
    with pytest.raises(BadRecordError, match="expected a file") as error:
        place(tmp_path, file).find(name)
    assert str(error.value).endswith(f"but there is none{hint or ''}")
