"""The files by which Slicer builds, lists and installs the extension agree with each other and with the tree."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from VoxelMorphRegistrationLib.networks import shelf

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "VoxelMorphRegistration"


def cmake_text(path: Path) -> str:
    """The file without comments."""
    return re.sub(r"#.*", "", path.read_text(encoding="utf-8"))


def extension_settings() -> dict[str, str]:
    """The set(EXTENSION_... "...") lines, each on one line as the extension index wants it."""
    found = re.findall(r'^set\(EXTENSION_(\w+) "([^"\n]*)"\)$', (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
    return dict(found)


def module_list(variable: str) -> set[str]:
    text = cmake_text(MODULE / "CMakeLists.txt")
    listed = re.search(rf"set\({variable}\s+([^)]*)\)", text).group(1).split()
    names = [name.replace("${MODULE_NAME}", MODULE.name) for name in listed]
    assert len(names) == len(set(names))
    return set(names)


def s4ext_settings() -> dict[str, str]:
    lines = (ROOT / "VoxelMorph.s4ext").read_text(encoding="utf-8").splitlines()
    return dict((*line.split(" ", 1), "")[:2] for line in lines if line and not line.startswith("#"))


def test_every_library_file_is_installed():
    tree = {path.relative_to(MODULE).as_posix() for path in MODULE.rglob("*.py")}
    assert module_list("MODULE_PYTHON_SCRIPTS") == tree


def test_every_resource_is_installed():
    tree = {path.relative_to(MODULE).as_posix() for path in (MODULE / "Resources").rglob("*") if path.is_file()}
    assert module_list("MODULE_PYTHON_RESOURCES") == tree


def test_models_are_installed_where_the_library_looks_for_them():
    text = cmake_text(MODULE / "CMakeLists.txt")
    assert "${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}/Resources/Models" in text
    # Installed, the library's folder lies beside the module file, and Resources/Models, too.
    source = Path(shelf.__file__).read_text(encoding="utf-8")
    assert 'library.parent / "Resources" / "Models"' in source


def test_catalogue_entry_s4ext_and_cmake_agree():
    settings, s4ext = extension_settings(), s4ext_settings()
    entry = json.loads((ROOT / "VoxelMorph.json").read_text(encoding="utf-8"))
    assert "project(VoxelMorph)" in cmake_text(ROOT / "CMakeLists.txt").splitlines()
    assert entry["scm_url"] == s4ext["scmurl"] == s4ext["homepage"] == settings["HOMEPAGE"]
    assert entry["category"] == s4ext["category"] == "Registration"
    assert entry["build_dependencies"] == s4ext["depends"].split() == settings["DEPENDS"].split() == ["PyTorch"]
    assert s4ext["description"] == settings["DESCRIPTION"]
    assert s4ext["contributors"] == settings["CONTRIBUTORS"]
    assert s4ext["iconurl"] == settings["ICONURL"]
    assert s4ext["screenshoturls"] == settings["SCREENSHOTURLS"]
    assert s4ext["build_subdirectory"] == entry["build_subdirectory"] == "."
    assert s4ext["scmrevision"] == "main"
    # With a revision the catalogue clones the whole history, without one the last state alone.
    assert "scm_revision" not in entry


def test_keywords_are_single_words_apart_by_spaces():
    """As Slicer splits them (its pull request 9040); a semicolon would cut the rest off on the way through CMake."""
    words = extension_settings()["KEYWORDS"]
    assert not set(words) & set(";,")
    assert {"registration", "deformable", "VoxelMorph"} <= set(words.split(" "))


def test_catalogue_entry_has_the_keys_of_its_schema():
    entry = json.loads((ROOT / "VoxelMorph.json").read_text(encoding="utf-8"))
    assert set(entry) <= {
        "$schema",
        "build_dependencies",
        "build_subdirectory",
        "category",
        "dicom_support_rule",
        "enabled",
        "scm_revision",
        "scm_type",
        "scm_url",
        "tier",
    }
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert {"$schema", "category", "scm_url"} <= set(entry)


@pytest.mark.parametrize("setting", ["ICONURL", "SCREENSHOTURLS"])
def test_pictures_of_the_catalogue_exist(setting):
    settings = extension_settings()
    base = settings["HOMEPAGE"].replace("https://github.com/", "https://raw.githubusercontent.com/") + "/main/"
    for url in settings[setting].split():
        assert url.startswith(base)
        assert (ROOT / url.removeprefix(base)).is_file(), url


@pytest.mark.parametrize(
    "path", ["VoxelMorph.png", "VoxelMorphRegistration/Resources/Icons/VoxelMorphRegistration.png"]
)
def test_icons_are_128_pixels_square(path):
    head = (ROOT / path).read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) == (128, 128)


def test_text_files_have_unix_line_ends_and_the_licence_is_at_the_root():
    names = ["CMakeLists.txt", "VoxelMorph.s4ext", "VoxelMorph.json", "LICENSE", "README.md"]
    paths = [ROOT / name for name in names] + list(MODULE.rglob("*.py")) + list(MODULE.rglob("*.ui"))
    for path in paths:
        content = path.read_bytes()
        assert b"\r" not in content, path
        assert content.endswith(b"\n"), path


def test_repository_fits_the_extension_index():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 100e6


def test_no_file_is_over_five_megabytes(tmp_path):
    """Every version of a file stays in the history for ever; the commit hook refuses larger ones, too."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    names = [str(ROOT / name.decode()) for name in listed.split(b"\0") if name]
    check = [sys.executable, str(ROOT / "Testing" / "large_files.py")]
    assert subprocess.run([*check, *names]).returncode == 0
    large = tmp_path / "large.pt"
    large.write_bytes(bytes(5_000_001))
    assert subprocess.run([*check, str(large)], capture_output=True).returncode == 1
