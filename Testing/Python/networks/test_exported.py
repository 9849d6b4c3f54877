"""Networks of torch.export: they compute what was exported, and nothing of a stranger's file runs unseen."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from VoxelMorphRegistrationLib.__main__ import main
from VoxelMorphRegistrationLib.errors import ModelError, UntrustedModelError
from VoxelMorphRegistrationLib.networks.importers import import_foreign
from VoxelMorphRegistrationLib.networks.model import check_model, load_model, read_card, save_model

SIZES = (8, 12, 16)
FACTS = {"name": "x", "dimension": 3, "stride": 4, "output": "displacement", "output_scale": 1.0}
LOCKED = {**FACTS, "shape": list(SIZES)}


class Network(nn.Module):
    """Two levels, a norm, a buffer and a tensor constant."""

    def __init__(self, both: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fine, self.coarse = nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 4, 3, stride=2, padding=1)
        self.norm, self.last = nn.InstanceNorm3d(4, affine=True), nn.Conv3d(8, 3, 3, padding=1)
        self.register_buffer("scale", torch.tensor(2.0))
        self.both = both

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor):
        fine = functional.leaky_relu(self.norm(self.fine(torch.cat([moving, fixed], 1))), 0.2)
        coarse = functional.interpolate(self.coarse(fine), size=fine.shape[2:], mode="trilinear")
        flow = self.last(torch.cat([fine, coarse], 1)) * self.scale + torch.tensor([0.25, 0, 0]).view(1, 3, 1, 1, 1)
        return (moving + flow[:, :1], flow) if self.both else flow


def images() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(1, 1, *SIZES), torch.rand(1, 1, *SIZES)


def exported(path, network=None, facts=None, any_shape=False):
    """A file as a stranger would give it, with its facts beside it."""
    sizes = dict.fromkeys((2, 3, 4), torch.export.Dim.AUTO)
    shapes = (sizes, sizes) if any_shape else None
    torch.export.save(torch.export.export((network or Network()).eval(), images(), dynamic_shapes=shapes), str(path))
    path.with_suffix(".json").write_text(json.dumps(facts or (FACTS if any_shape else LOCKED)))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Exporting takes seconds: once for all tests. The bytes of a file by its kind."""
    folder = tmp_path_factory.mktemp("exported")
    return {
        "locked": exported(folder / "locked.pt2").read_bytes(),
        "any shape": exported(folder / "any.pt2", any_shape=True).read_bytes(),
        "both": exported(folder / "both.pt2", Network(both=True)).read_bytes(),
    }


def put(path, data, facts=LOCKED):
    path.write_bytes(data)
    path.with_suffix(".json").write_text(json.dumps(facts))
    return path


def changed(data, change) -> bytes:
    """The archive with change(name within the folder, bytes), which gives bytes or None to leave it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            new = change(name.partition("/")[2], source.read(name))
            if new is not None:
                target.writestr(name, new)
    return buffer.getvalue()


def with_graph(data, change) -> bytes:
    """The archive with its program changed in place by change(whole JSON)."""

    def one(name, content):
        if not name.startswith("models/"):
            return content
        whole = json.loads(content)
        change(whole)
        return json.dumps(whole).encode()

    return changed(data, one)


def nodes(whole) -> list:
    return whole["graph_module"]["graph"]["nodes"]


@pytest.mark.parametrize("kind", ["locked", "any shape", "both"])
def test_it_computes_what_the_network_does(kind, made, tmp_path):
    facts = {"locked": LOCKED, "any shape": FACTS, "both": {**LOCKED, "returns": "moved and field"}}[kind]
    model = load_model(put(tmp_path / "n.pt2", made[kind], facts))
    moving, fixed = images()
    network = Network().eval()
    with torch.no_grad():
        torch.testing.assert_close(model.flow(moving, fixed), network(moving, fixed))
        if kind == "any shape":
            larger = torch.rand(2, 1, 1, 16, 16, 20)
            torch.testing.assert_close(model.flow(*larger), network(*larger))


def test_one_of_a_fixed_shape_must_be_locked_to_it(made, tmp_path):
    with pytest.raises(ModelError, match=r'8x12x16 voxels: its facts must say so \("shape": \[8, 12, 16\]\)'):
        load_model(put(tmp_path / "n.pt2", made["locked"], FACTS))


def test_import_puts_the_facts_inside(made, tmp_path, capsys):
    path = put(tmp_path / "n.pt2", made["both"], {**LOCKED, "returns": "moved and field"})
    assert main(["models", "import", str(path), "-o", str(tmp_path / "out.pt2"), "--name", "theirs"]) == 0
    path.with_suffix(".json").unlink()
    model = load_model(tmp_path / "out.pt2")
    assert read_card(tmp_path / "out.pt2").name == model.card.name == "theirs"
    moving, fixed = images()
    with torch.no_grad():
        torch.testing.assert_close(model.flow(moving, fixed), Network()(moving, fixed))
    assert check_model(model)["parameters"] > sum(weight.numel() for weight in Network().parameters())
    # Neither samples nor where it was in the source.
    with zipfile.ZipFile(tmp_path / "out.pt2") as file:
        assert not [name for name in file.namelist() if "sample" in name or name.endswith(".pt")]


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten.append.t",
        "torch.ops.stranger.relu.default",
        "torch.ops.aten.relu.default.__globals__",
        "torch.ops.load_library",
        "torch.load",
        "os.system",
        "builtins.eval",
        "_operator.pow",
        "_operator.attrgetter",
        "_operator.call",
    ],
)
def test_operators_that_networks_do_not_need_are_refused_by_name(target, made, tmp_path):
    def change(whole):
        nodes(whole)[0]["target"] = target

    with pytest.raises(UntrustedModelError, match="is a program that uses"):
        load_model(put(tmp_path / "n.pt2", with_graph(made["locked"], change)))


def test_who_trusts_a_file_may_run_it(tmp_path):
    class Strided(nn.Module):
        def forward(self, moving: torch.Tensor, fixed: torch.Tensor):
            flow = torch.as_strided(moving, moving.shape, moving.stride()) * 2
            return torch.cat([flow, fixed, moving], 1)

    path = exported(tmp_path / "n.pt2", Strided())
    with pytest.raises(UntrustedModelError, match=r"aten\.as_strided"):
        load_model(path)
    model = load_model(path, trust=True)
    moving, fixed = images()
    torch.testing.assert_close(model.flow(moving, fixed), torch.cat([2 * moving, fixed, moving], 1))


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def pickled_weight(data) -> bytes:
    def one(name, content):
        if name.endswith("_weights_config.json"):
            whole = json.loads(content)
            first = next(iter(whole["config"].values()))
            first["use_pickle"], first["tensor_meta"] = True, None
            return json.dumps(whole).encode()
        return pickle.dumps(Evil()) if name.endswith("weight_0") else content

    return changed(data, one)


def with_weight(**meta):
    def make(data) -> bytes:
        def one(name, content):
            if not name.endswith("_weights_config.json"):
                return content
            whole = json.loads(content)
            next(iter(whole["config"].values()))["tensor_meta"].update(meta)
            return json.dumps(whole).encode()

        return changed(data, one)

    return make


def edited(change):
    return lambda data: with_graph(data, change)


def not_finite(data) -> bytes:
    nan = np.full(4000, np.nan, np.float32).tobytes()
    return changed(data, lambda name, content: nan[: len(content)] if name.endswith("weight_0") else content)


def cut_weight(data) -> bytes:
    return changed(data, lambda name, content: content[:-4] if name.endswith("weight_0") else content)


BROKEN = {
    "a weight that is a pickle": (pickled_weight, "as a pickle, which is a program"),
    "a weight that is cut": (cut_weight, "cut short"),
    "a weight of NaN": (not_finite, "no finite numbers"),
    "a weight beyond its record": (with_weight(sizes=[{"as_int": 10**9}] * 5), "cut short|damaged"),
    "a weight of negative size": (with_weight(sizes=[{"as_int": -1}] * 5), "damaged"),
    "a weight of texts": (with_weight(sizes=[{"as_int": "8"}] * 5), "damaged"),
    "a weight with an expression": (with_weight(sizes=[{"as_expr": {"expr_str": "print(1)"}}] * 5), "damaged"),
    "a weight of no kind": (with_weight(dtype=99), "type that is not known"),
    "another version": (edited(lambda w: w["schema_version"].update(major=9)), "in version 9 of its format"),
    "no version": (edited(lambda w: w.pop("schema_version")), "damaged"),
    "no calls": (edited(lambda w: nodes(w).clear()), "damaged"),
    "a name that nobody gave": (
        edited(lambda w: nodes(w)[0]["inputs"][0].update(arg={"as_tensor": {"name": "nobody"}})),
        "do not fit together|damaged",
    ),
    "an argument of two kinds": (
        edited(lambda w: nodes(w)[0]["inputs"][0].update(arg={"as_int": 1, "as_none": True})),
        "damaged",
    ),
    "an argument that is huge": (
        edited(lambda w: nodes(w)[0]["inputs"][0].update(arg={"as_int": 10**30})),
        "damaged",
    ),
    "three images": (
        edited(
            lambda w: w["graph_module"]["signature"]["input_specs"].append(
                w["graph_module"]["signature"]["input_specs"][-1]
            )
        ),
        "takes 3 images",
    ),
    "deep JSON": (lambda data: changed(data, lambda n, c: b"[" * 10**6 if n.startswith("models/") else c), "damaged"),
    "no JSON": (lambda data: changed(data, lambda n, c: b"\xff" if n.startswith("models/") else c), "damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_and_senseless_files_end_in_a_sentence(name, made, tmp_path, capsys):
    make, message = BROKEN[name]
    path = put(tmp_path / "n.pt2", make(made["locked"]))
    with pytest.raises(ModelError, match=message):
        check_model(load_model(path))
    assert "run" not in capsys.readouterr().out


def test_a_graph_within_a_graph_is_refused_by_name(made, tmp_path):
    def change(whole):
        nodes(whole)[0]["inputs"][0]["arg"] = {"as_graph": {"name": "g", "graph": {}}}

    with pytest.raises(UntrustedModelError, match="as_graph"):
        load_model(put(tmp_path / "n.pt2", with_graph(made["locked"], change)))


def test_files_of_earlier_pytorch_are_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "n.pt2", "w") as file:
        file.writestr("serialized_exported_program.json", "{}")
        file.writestr("serialized_state_dict.pt", b"")
        file.writestr("version", "7.4")
    with pytest.raises(ModelError, match=r"before 2\.8"):
        load_model(tmp_path / "n.pt2")


def test_a_saved_model_is_read_back(made, tmp_path):
    network, card = import_foreign(put(tmp_path / "n.pt2", made["locked"]), LOCKED)
    save_model(network, card, tmp_path / "m.pt2")
    assert load_model(tmp_path / "m.pt2").card == card
