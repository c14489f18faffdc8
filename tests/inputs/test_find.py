"""Which files of a folder are images, what they are called, and what is refused."""

import hashlib
import os
import sys
from pathlib import Path

import pytest

from datus.errors import UsageError
from datus.inputs.find import IMAGE_SUFFIXES, FoundImages, find_images, image_id_of, sha256_of


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def test_images_are_found_at_any_depth_sorted_by_id_whatever_the_case_of_their_suffix(tmp_path):
    touch(
        tmp_path, "b.JPG", "a/z.png", "a/b/c.Tiff", "a b.webp", "a.b.jpg", "readme.txt", "a/noext"
    )
    found = find_images(tmp_path)
    assert found == FoundImages(("a b.webp", "a.b.jpg", "a/b/c.Tiff", "a/z.png", "b.JPG"), 2)


def test_hidden_files_and_folders_are_not_seen_at_all(tmp_path):
    touch(tmp_path, "x.jpg", "._x.jpg", ".jpg", ".cache/y.jpg", "a/.hidden.png")
    assert find_images(tmp_path) == FoundImages(("x.jpg",), 0)


def test_masks_of_runs_and_exports_among_the_images_are_no_images(tmp_path):
    touch(tmp_path, "x.jpg", "runs/x/index/index.jsonl", "runs/x/masks/0/files/x.png")
    touch(tmp_path, "for coco/datus_export.about", "for coco/images/x.png", "index/y.png")
    assert find_images(tmp_path).paths == ("index/y.png", "x.jpg")
    # who names such a folder means it
    assert find_images(tmp_path / "for coco").paths == ("images/x.png",)


def test_names_keep_their_unicode_form(tmp_path):
    composed, decomposed = "\u00e9.png", "e\u0301.jpg"
    touch(tmp_path, composed, decomposed, "深海 (1).jpg")
    assert set(find_images(tmp_path).paths) == {composed, decomposed, "深海 (1).jpg"}


def test_a_missing_folder_and_a_file_are_refused(tmp_path):
    with pytest.raises(UsageError) as caught:
        find_images(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path}/none: no such folder; check the path"
    touch(tmp_path, "x.jpg")
    with pytest.raises(UsageError) as caught:
        find_images(tmp_path / "x.jpg")
    assert str(caught.value) == f"{tmp_path}/x.jpg: expected a folder of images, got a file"


def test_a_folder_without_images_says_what_else_it_holds(tmp_path):
    touch(tmp_path, "a.txt", "b.heic")
    with pytest.raises(UsageError) as caught:
        find_images(tmp_path)
    known = " ".join(sorted(IMAGE_SUFFIXES))
    assert str(caught.value) == f"{tmp_path}: no image in it (2 other files); known are {known}"


def test_two_files_with_the_same_id_are_refused(tmp_path):
    touch(tmp_path, "a/x.jpg", "a/x.png", "y.jpg")
    with pytest.raises(UsageError) as caught:
        find_images(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: files that differ only in their suffix: a/x.jpg and a/x.png; "
        "rename one of each pair"
    )


def test_at_most_five_pairs_are_named(tmp_path):
    touch(tmp_path, *(f"{n}.{suffix}" for n in range(8) for suffix in ("png", "bmp")))
    with pytest.raises(UsageError, match=r"4\.png and 3 more; rename one of each pair$") as caught:
        find_images(tmp_path)
    assert str(caught.value).count(".png") == 5


def test_linked_folders_are_followed_once_and_never_in_a_circle(tmp_path):
    root = touch(tmp_path / "root", "a/x.jpg")
    touch(tmp_path / "far", "y.jpg", "deep/z.jpg")
    (root / "0far").symlink_to(tmp_path / "far")
    (root / "1deep").symlink_to(tmp_path / "far" / "deep")
    (root / "0again").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    (root / "above").symlink_to(tmp_path)
    (tmp_path / "far" / "back").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    assert find_images(root).paths == ("0far/deep/z.jpg", "0far/y.jpg", "a/x.jpg")


def test_a_linked_file_is_an_image_even_if_the_link_leads_nowhere(tmp_path):
    touch(tmp_path / "far", "x.jpg")
    root = touch(tmp_path / "root", "a.jpg")
    (root / "x.jpg").symlink_to(tmp_path / "far" / "x.jpg")
    (root / "gone.jpg").symlink_to(tmp_path / "gone.jpg")
    assert find_images(root).paths == ("a.jpg", "gone.jpg", "x.jpg")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_is_refused_by_its_repr(tmp_path):
    touch(tmp_path, "ok.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.jpg")).write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        find_images(tmp_path)
    assert str(caught.value) == r"'bad\udcff.jpg': the name is not valid UTF-8; rename the file"


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)  # root may read anything, so chmod proves nothing
    with pytest.raises(UsageError, match=r": cannot be read: Permission denied$"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("path", "image_id"),
    [
        ("a.b.jpg", "a.b"),
        ("x/a.JPEG", "x/a"),
        ("gpj.jpg.jpg", "gpj.jpg"),
        ("x.jpg/readme", "x.jpg/readme"),
        ("a.txt", "a.txt"),
        ("jpg", "jpg"),
        ("x/.jpg", "x/.jpg"),
        (".jpg", ".jpg"),
        ("a.", "a."),
    ],
)
def test_an_image_id_is_the_path_without_its_image_suffix(path, image_id):
    assert image_id_of(path) == image_id


def test_the_hash_is_sha256():
    assert sha256_of(b"abc") == hashlib.sha256(b"abc").hexdigest()
