"""Model files of others: nothing of their programs runs before each name in it is known to do no harm."""

from __future__ import annotations

import json
import pickle
import zipfile

import pytest
import torch
from torch import nn

from model_cases import MovedAndField, small_card, small_network
from small_models import CentroidNetwork
from VoxelMorphRegistrationLib.errors import ModelError, UntrustedModelError
from VoxelMorphRegistrationLib.networks.archive import Archive
from VoxelMorphRegistrationLib.networks.importers import import_foreign
from VoxelMorphRegistrationLib.networks.model import load_model, read_card, save_model
from VoxelMorphRegistrationLib.networks.operators import OPERATORS, PRIMITIVES
from VoxelMorphRegistrationLib.networks.program import check_program
from VoxelMorphRegistrationLib.networks.shelf import find_model, model_names

FACTS = {"name": "x", "dimension": 3, "stride": 4, "output": "displacement", "output_scale": 1.0}


def write_program(path, network, facts=FACTS):
    """A TorchScript file as a stranger would give it, with its facts inside."""
    torch.jit.save(torch.jit.script(network), str(path), _extra_files={"voxelmorph.json": json.dumps(facts)})
    return path


def rewritten(path, change):
    """The file with its records changed: change(name within the folder, bytes) gives bytes, or None to leave out."""
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, data in records.items():
            new = change(name.partition("/")[2], data)
            if new is not None:
                target.writestr(name, new)
    return path


class Plain(nn.Module):
    def forward(self, moving: torch.Tensor, fixed: torch.Tensor):
        return torch.cat([moving - fixed, fixed, moving], 1)


class Saver(nn.Module):
    """Writes a file of its choice as soon as it is loaded."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target

    @torch.jit.export
    def __getstate__(self) -> str:
        return self.target

    @torch.jit.export
    def __setstate__(self, state: str) -> None:
        self.target = state
        self.training = False
        torch.save(torch.zeros(3), state)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor):
        return torch.cat([moving, fixed, fixed], 1)


class Overwriter(nn.Module):
    """Maps a file into memory and changes it."""

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor):
        return torch.cat([moving, fixed, fixed], 1) + torch.from_file("/etc/hostname", True, 3).zero_()[0]


class Looker(nn.Module):
    """Reads beyond its own numbers."""

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor):
        return moving.as_strided([1, 3, 4, 4, 4], [0, 0, 0, 0, 0], 1_000_000)


def test_a_program_that_would_write_a_file_is_refused_by_name_before_it_runs(tmp_path):
    victim = tmp_path / "victim.txt"
    path = write_program(tmp_path / "bad.pt", Saver(str(victim)))
    victim.write_text("mine")
    with pytest.raises(UntrustedModelError, match=r"bad\.pt is a program that uses torch\.save, .* --trust-model"):
        load_model(path)
    with pytest.raises(UntrustedModelError, match=r"torch\.save"):
        import_foreign(path, FACTS)
    assert read_card(path).name == "x"
    assert victim.read_text() == "mine"
    load_model(path, trust=True)
    assert victim.read_bytes() != b"mine"


@pytest.mark.parametrize(("network", "name"), [(Overwriter(), r"torch\.from_file"), (Looker(), r"torch\.as_strided")])
def test_operators_beyond_a_network_s_own_numbers_are_refused(network, name, tmp_path):
    path = write_program(tmp_path / "bad.pt", network)
    with pytest.raises(UntrustedModelError, match=name):
        load_model(path)


def with_line(path, line):
    """The program with one line more at the beginning of its forward()."""
    start = b"fixed: Tensor) -> Tensor:\n"

    def change(name, data):
        return data.replace(start, start + line.encode()) if name.endswith(".py") else data

    return rewritten(path, change)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('    torch.save(moving, "f")\n', r"torch\.save"),
        ('    (moving).save("f")\n', "uses save"),
        ('    moving.save("f")\n', "uses save"),
        ('    (moving) . save("f")\n', "uses save"),
        ('    (moving).\\\n      save("f")\n', "not as TorchScript writes it"),
        ('    t = torch\n    t.save(moving, "f")\n', "uses torch"),
        ('    getattr(moving, "save")("f")\n', "uses save"),
        ('    getattr(torch, "save")(moving, "f")\n', "uses getattr"),
        ('    getattr((moving), "save")("f")\n', "uses getattr"),
        ('    ops.aten.save(moving, "f")\n', r"ops\.aten\.save"),
        ('    ops.prim.rpc_sync("a", "b")\n', r"ops\.prim\.rpc_sync"),
        ("    c = __torch__.torch.classes.dist.Thing()\n", r"__torch__\.torch\.classes"),
        ('    # torch.cat\n    torch.save(moving, "f")\n', "not as TorchScript writes it"),
        ("    x = '\"'\n    torch.save(moving, '\"')\n", "not as TorchScript writes it"),
        ('    x = """ " """\n    torch.save(moving, "f")\n', "not as TorchScript writes it"),
        ('    x = 2.save("f")\n', "not as TorchScript writes it"),
        ('    x = "\\"\n    torch.save(moving, "f")\n', "not as TorchScript writes it"),
        ("    fork(self.forward)\n", "uses fork"),
        ("    x = torch.cat\rtorch.save\n", "not as TorchScript writes it"),
        ("    y = CONSTANTS.save\n", r"CONSTANTS\.save"),
        ("    moving.set_(fixed)\n", "uses set_"),
    ],
)
def test_no_way_of_writing_a_forbidden_name_is_missed(line, message, tmp_path):
    path = with_line(write_program(tmp_path / "bad.pt", Plain()), line)
    assert line in "".join(Archive(path).code().values())
    with pytest.raises(ModelError, match=message):
        load_model(path)


def test_declaring_a_name_does_not_make_an_operator_of_it_harmless(tmp_path):
    path = write_program(tmp_path / "bad.pt", Plain())

    with_line(path, '    (moving).save("f")\n')
    rewritten(path, lambda name, data: data.replace(b"  training : bool", b"  training : bool\n  save : int"))
    with pytest.raises(UntrustedModelError, match="uses save"):
        load_model(path)


def test_a_pickle_with_anything_but_modules_and_tensors_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    path = write_program(tmp_path / "bad.pt", Plain())
    rewritten(path, lambda name, data: pickle.dumps(Evil(), 2) if name == "data.pkl" else data)
    with pytest.raises(ModelError, match="no pickle as TorchScript writes it"):
        load_model(path)


class Offset(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(8))

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor):
        return torch.cat([moving, fixed, fixed], 1) + self.offset[0]


def test_tensors_that_reach_beyond_their_numbers_are_refused(tmp_path):
    path = write_program(tmp_path / "cut.pt", Offset())
    rewritten(path, lambda name, data: data[:8] if name == "data/0" else data)
    with pytest.raises(ModelError, match="data/0 is cut short"):
        load_model(path)
    path = write_program(tmp_path / "long.pt", Offset())
    # Eight numbers become 200 in the shape, not in the storage.
    rewritten(path, lambda name, data: data.replace(b"(K\x08t(", b"(K\xc8t(") if name == "data.pkl" else data)
    with pytest.raises(ModelError, match="larger than its numbers"):
        load_model(path)


def test_files_that_unpack_to_far_more_are_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb/constants.pkl", b"\x80\x02).")
        file.writestr("bomb/extra/voxelmorph.json", b" " * 50_000_000 + b"{}")
    assert path.stat().st_size < 100_000
    with pytest.raises(ModelError, match="unpacks to more than a model needs"):
        read_card(path)


def test_records_that_two_readers_would_take_for_different_ones_are_refused(tmp_path):
    path = write_program(tmp_path / "twice.pt", Plain())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(f"{file.namelist()[0].partition('/')[0]}/DATA.PKL", b"")
    with pytest.raises(ModelError, match="holds 'DATA.PKL' twice"):
        load_model(path)


class Attending(nn.Module):
    """What networks of the field are made of, at small sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv3d(2, 8, 3, 2, 1), nn.InstanceNorm3d(8), nn.PReLU())
        self.norm, self.joined, self.drop = nn.LayerNorm(8), nn.Linear(8, 24), nn.Dropout(0.1)
        self.up, self.flow = nn.Upsample(scale_factor=2.0, mode="trilinear"), nn.Conv3d(8, 3, 3, padding=1)
        axes = torch.meshgrid([torch.arange(8.0)] * 3, indexing="ij")
        self.register_buffer("grid", torch.stack(axes)[None])

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor):
        x = self.conv(torch.cat([moving, fixed], 1))
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.joined(self.norm(tokens)).chunk(3, -1)
        tokens = tokens + self.drop(torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ v)
        x = torch.roll(tokens, (1,), (1,)).transpose(1, 2).reshape(x.shape)
        flow = self.flow(self.up(x))
        with torch.no_grad():
            weight = torch.where(fixed > fixed.mean(), fixed, torch.zeros_like(fixed))
        if flow.dim() != 5:
            raise ValueError("five axes")
        places = 2.0 * (self.grid + flow) / 7.0 - 1.0
        places = places.permute(0, 2, 3, 4, 1).flip(-1)
        moved = torch.nn.functional.grid_sample(moving, places, align_corners=True, padding_mode="border")
        return moved * weight, flow


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize("network", [Attending(), CentroidNetwork(3), MovedAndField(), small_network()])
def test_networks_of_the_field_pass_and_compute_the_same(network, how, tmp_path):
    network = network.eval()
    images = [torch.rand(1, 1, 8, 8, 8) for _ in range(2)]
    made = torch.jit.script(network) if how == "script" else torch.jit.trace(network, images, check_trace=False)
    torch.jit.save(made, str(tmp_path / "m.pt"))
    archive = Archive(tmp_path / "m.pt")
    check_program(archive)
    with torch.inference_mode():
        expected, found = network(*images), torch.jit.load(archive.rewritten())(*images)
    for a, b in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (expected, found)), strict=True):
        torch.testing.assert_close(a, b)


def test_every_operator_of_the_list_exists_and_none_of_them_touches_files():
    known = {schema.name for schema in torch._C._jit_get_all_schemas()}
    assert {f"aten::{name}" for name in OPERATORS} | {f"prim::{name}" for name in PRIMITIVES} <= known
    assert not OPERATORS & {"save", "from_file", "set_", "resize_", "as_strided", "set_data", "data", "wait"}


# --- our own, by their numbers alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", model_names())
def test_shipped_networks_need_no_torchscript_and_give_the_same_to_the_last_bit(name, monkeypatch):
    path = find_model(name)
    scripted = torch.jit.load(str(path)).eval()
    dimension = read_card(path).dimension
    layout = torch.channels_last_3d if dimension == 3 else torch.channels_last
    for weight in scripted.parameters():
        # The layout that load_model chooses: the convolutions sum in another order for each.
        if weight.dim() > 1:
            weight.data = weight.data.contiguous(memory_format=layout)
    monkeypatch.setattr(torch.jit, "load", None)
    model = load_model(name)
    shape = (20, 27, 22) if dimension == 3 else (45, 38)
    images = [torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    with torch.inference_mode():
        assert torch.equal(model.flow(*images), scripted(*images))


def test_a_network_of_ours_with_changed_code_computes_by_its_numbers(tmp_path):
    path = tmp_path / "small.pt"
    save_model(small_network(), small_card(), path)
    rewritten(path, lambda name, data: data.replace(b"torch.cat", b"torch.save") if name.endswith(".py") else data)
    images = [torch.rand(1, 1, 12, 12, 12) for _ in range(2)]
    with torch.inference_mode():
        torch.testing.assert_close(load_model(path).flow(*images), small_network()(*images))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    network = small_network()
    path = tmp_path / "small.pt"
    save_model(network, small_card(), path)
    nothing = torch.full((3,), float("nan")).numpy().tobytes()
    rewritten(path, lambda name, data: nothing if name.startswith("data/") and len(data) == 12 else data)
    with pytest.raises(ModelError, match="no finite numbers"):
        load_model(path)


def test_a_card_of_sizes_that_the_file_does_not_hold_makes_no_network(tmp_path):
    path = tmp_path / "small.pt"
    save_model(small_network(), small_card(), path)

    def change(name, data):
        if not name.startswith("extra/"):
            return data
        facts = json.loads(data)
        facts["architecture"] |= {"encoder": [8192] * 20, "decoder": [8192] * 20}
        return json.dumps(facts).encode()

    assert isinstance(load_model(rewritten(path, change)).network, torch.jit.ScriptModule)
