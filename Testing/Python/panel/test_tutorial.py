"""The README's tutorial names what the panel shows: its controls, its sections, its choices and what a run makes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from VoxelMorphRegistrationLib.alignment.align import METHODS
from VoxelMorphRegistrationLib.panel.samples import SAMPLE_CATEGORY, SAMPLES
from VoxelMorphRegistrationLib.registration.settings import QUALITIES, REFINEMENTS

ROOT = Path(__file__).parents[3]
UI = ROOT / "VoxelMorphRegistration/Resources/UI/VoxelMorphRegistration.ui"
# Slicer's own menus, with the module's place in them.
MENUS = {"File > Download Sample Data", "Modules > Registration > VoxelMorph Registration"}


def steps() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tutorial = text.split("## Tutorial in Slicer", 1)[1].split("![", 1)[0]
    return [" ".join(step.split()) for step in re.split(r"^\d+\. ", tutorial, flags=re.MULTILINE)[1:]]


def quoted(mark: str) -> list[str]:
    """What stands between marks in the steps: ** for buttons, * for sections and labels, ` for choices."""
    text = " ".join(steps())
    if mark == "*":
        text = re.sub(r"\*\*.+?\*\*", "", text)
    found = re.findall(re.escape(mark) + r"(.+?)" + re.escape(mark), text)
    assert found
    return found


def texts_of(*classes: str) -> set[str]:
    """The texts of these widgets in the .ui file, without the colon of labels."""
    found = set()
    for widget in ElementTree.parse(UI).iter("widget"):
        if widget.get("class") in classes:
            texts = [one.findtext("string") for one in widget.findall("property") if one.get("name") == "text"]
            found.update((text or "").removesuffix(":") for text in texts)
    return found


def test_tutorial_has_numbered_steps():
    assert len(steps()) == 7


def test_buttons_of_the_tutorial_are_in_the_panel(module):
    buttons = texts_of("QPushButton") | {"Cancel"} | {name for name, _ in SAMPLES}
    assert set(quoted("**")) <= buttons


def test_sections_and_labels_of_the_tutorial_are_in_the_panel(module):
    volumes = [node for node, *_ in SAMPLES[0][1]]
    fixed, moving = volumes
    made = {f"{moving} to {fixed}", f"{moving} registered", f"{moving} Jacobian"}
    known = texts_of("ctkCollapsibleButton", "QLabel") | MENUS | {SAMPLE_CATEGORY, *volumes} | made
    assert set(quoted("*")) <= known


def test_choices_of_the_tutorial_can_be_made(module):
    choices = {*METHODS, *QUALITIES, *REFINEMENTS, "grid", "arrows"}
    assert set(quoted("`")) <= choices


def test_menu_names_the_module_where_slicer_shows_it(module):
    menu = next(name for name in MENUS if name.startswith("Modules"))
    assert menu == f"Modules > {module.parent.categories[0]} > {module.parent.title}"


def test_registration_makes_what_the_tutorial_says(panel, model_file, scene):
    import panel_cases as press

    widget, fixed_node, moving_node = panel
    fixed_node.SetName("MRHead")
    moving_node.SetName("MRBrainT1")
    press.choose_quick(widget, model_file)
    press.press_and_wait(widget)
    made = [node.GetName() for node in map(scene.GetNthNode, range(scene.GetNumberOfNodes()))]
    assert {"MRBrainT1 to MRHead", "MRBrainT1 registered", "MRBrainT1 Jacobian"} <= set(made)


@pytest.mark.parametrize("name", ["README.md", "docs/console.md"])
def test_links_of_the_documents_lead_somewhere(name):
    path = ROOT / name
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert missing == []
