"""What importing costs and brings, and what the repository promises."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import VoxelMorphRegistrationLib

LIBRARY = Path(VoxelMorphRegistrationLib.__file__).parent
ROOT = LIBRARY.parent.parent


def modules_after(statement: str) -> set[str]:
    code = f"import sys; sys.path.insert(0, {str(LIBRARY.parent)!r}); {statement}; print(*sys.modules, sep='\\n')"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_brings_neither_torch_nor_simpleitk():
    loaded = modules_after("import VoxelMorphRegistrationLib")
    assert not loaded & {"torch", "SimpleITK", "numpy", "slicer", "vtk", "qt"}


def test_worker_does_without_qt_and_slicer():
    loaded = modules_after("import VoxelMorphRegistrationLib.worker.server")
    assert not loaded & {"slicer", "vtk", "vtkmodules", "qt", "ctk", "PySide6"}


def test_public_names_are_those_that_scripts_use():
    for name in ("Grid", "Image", "Registration", "Report", "Settings", "read_image", "register", "write_image"):
        assert getattr(VoxelMorphRegistrationLib, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'registr'"):
        VoxelMorphRegistrationLib.registr  # noqa: B018


def test_command_line_help_comes_without_torch():
    loaded = modules_after("from VoxelMorphRegistrationLib.__main__ import _parser; _parser()")
    assert "torch" not in loaded


def test_tests_skip_nothing():
    for path in (ROOT / "Testing").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in ("skip" + "if", "pytest." + "skip", "unittest." + "skip", "import" + "orskip", "mark.x" + "fail"):
            assert word not in text, f"{path} holds {word}"


def test_readme_guide_and_continuous_integration_run_the_same_tests():
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in (".ci/run", "README.md", "CONTRIBUTING.md")]
    (command,) = re.findall(r"^pytest(?: .*)?$", texts[0], re.MULTILINE)
    assert f'".[test]" && .venv-test/bin/{command}\n' in texts[1]
    assert any(line.partition("#")[0].strip() == command for line in texts[2].splitlines())


def test_the_page_of_settings_names_each_with_its_option_and_default_and_every_key_of_the_report():
    from VoxelMorphRegistrationLib import Report, Settings
    from VoxelMorphRegistrationLib.commands.options import _OPTIONS

    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (?:`--([\w-]+)`)? *\| `?([^|`]+)`? \| ", page, re.MULTILINE)
    options = {own: option.replace("_", "-") for option, own in _OPTIONS.items()}
    found = {name: (option, json.loads(default)) for name, option, default in rows}
    expected = {name: (options.get(name, ""), value) for name, value in json.loads(Settings().to_json()).items()}
    assert found == expected
    for part in dataclasses.fields(Report):
        assert f"`{part.name}`" in page, part.name


def test_wheel_tells_type_checkers_that_it_is_typed():
    assert (LIBRARY / "py.typed").is_file()


def test_no_two_test_files_share_a_name():
    """pytest collects only one of them."""
    names = [path.name for path in (ROOT / "Testing" / "Python").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(set(names)) == sorted(names)


def test_what_tests_share_is_in_no_test_file():
    for path in (ROOT / "Testing" / "Python").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^(from|import) test_", text, re.MULTILINE), f"{path.name} imports a test file"


def test_scripts_of_the_first_version_find_what_its_readme_named():
    from VoxelMorphRegistrationLib import geometry

    with pytest.warns(DeprecationWarning, match=r"images\.files now"):
        assert geometry.read_image is VoxelMorphRegistrationLib.read_image
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        geometry.nothing  # noqa: B018
