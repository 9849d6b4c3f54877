import json

import h5py
import numpy as np
import pytest
import torch

from model_cases import MovedAndField, small_card, small_network, write_keras
from VoxelMorphRegistrationLib.errors import ModelError, OutputError
from VoxelMorphRegistrationLib.images import sampling
from VoxelMorphRegistrationLib.networks.card import ModelCard
from VoxelMorphRegistrationLib.networks.importers import import_foreign, import_keras
from VoxelMorphRegistrationLib.networks.model import check_model, load_model, read_card, save_model
from VoxelMorphRegistrationLib.networks.shelf import find_model, model_names


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "small.pt"
    save_model(small_network(), small_card(), path)
    return path


def pair(*shape):
    return [torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(n)) for n in range(2)]


def test_saved_model_gives_the_network_s_flow_and_its_card(model_file):
    model = load_model(model_file)
    assert model.card == small_card()
    images = pair(12, 13, 14)
    with torch.no_grad():
        torch.testing.assert_close(model.flow(*images), small_network()(*images))


@pytest.mark.parametrize("dimension", [2, 3])
def test_bfloat16_convolutions_change_the_flow_by_their_rounding_only(dimension, tmp_path, monkeypatch):
    monkeypatch.setattr("VoxelMorphRegistrationLib.networks.model.has_bfloat16", lambda: True)
    card = small_card(dimension=dimension, spacing_mm=(2.0,) * dimension)
    card.architecture["bfloat16"] = True
    save_model(small_network(dimension), card, tmp_path / "m.pt")
    images = pair(*(32, 24, 40)[:dimension])
    whole, reduced = (load_model(tmp_path / "m.pt", "cpu", name) for name in ("float32", "auto"))
    assert (whole.precision, reduced.precision) == ("float32", "bfloat16")
    expected, flow = (model.flow(*images) for model in (whole, reduced))
    assert flow.dtype == torch.float32
    # Seven layers, each rounded to 8 bits (2^-9 at most, relative): errors add up like a random walk at worst.
    error = (flow - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 0.0 < float(error) < 7 * 2**-8


def test_models_that_do_not_allow_it_stay_in_float32(model_file, monkeypatch):
    monkeypatch.setattr("VoxelMorphRegistrationLib.networks.model.has_bfloat16", lambda: True)
    assert load_model(model_file, "cpu", "auto").precision == "float32"


def test_model_check_reports_sizes(model_file):
    found = check_model(load_model(model_file))
    assert found["input"] == [16, 16, 16] and found["output"] == [8, 8, 8]


def test_shipped_models_load_and_fit_their_cards():
    assert model_names()
    for name in model_names():
        model = load_model(name)
        assert model.card.name == name and model.card.license and model.card.training and model.card.limits
        check_model(model)
        assert find_model(name).with_suffix(".md").is_file()


def test_unknown_name_lists_the_shipped_models():
    with pytest.raises(ModelError, match="no model file or shipped model 'brain-9d'"):
        load_model("brain-9d")


def test_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="no TorchScript model file, or it is damaged"):
        load_model(path)


def test_state_dict_is_refused_with_advice(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(small_network().state_dict(), path)
    with pytest.raises(ModelError, match="a state dict or a checkpoint is not enough"):
        load_model(path)


def test_keras_file_is_pointed_to_the_importer(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(b"\x89HDF")
    with pytest.raises(ModelError, match="voxelmorph models import weights.h5"):
        load_model(path)


def test_truncated_model_is_refused(model_file):
    data = model_file.read_bytes()
    model_file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="damaged"):
        load_model(model_file)


def test_network_of_the_wrong_output_is_refused(tmp_path):
    class Average(torch.nn.Module):
        def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
            return (moving + fixed) / 2

    with pytest.raises(ModelError, match="one displacement channel per axis"):
        save_model(Average(), small_card(), tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_wrong_dimension_in_the_card_is_found_when_saving(tmp_path):
    with pytest.raises(ModelError):
        save_model(small_network(2), small_card(), tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_model_without_facts_says_which_file_to_write(tmp_path):
    path = tmp_path / "bare.pt"
    torch.jit.save(torch.jit.script(small_network()), path)
    with pytest.raises(ModelError, match="there is no bare.json beside it"):
        load_model(path)
    (tmp_path / "bare.json").write_text(json.dumps({"name": "bare", "stride": 4, "spacing_mm": [1, 1, 1]}))
    assert load_model(path).card.name == "bare"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"dimension": 4}, "dimension = 4"),
        ({"output": "warp"}, "output = 'warp'"),
        ({"colour": "red"}, "unknown entries: colour"),
        ({"normalization": {"method": "magic"}}, "normalization 'magic'"),
        ({"spacing_mm": [1, 1]}, "spacing_mm = .1, 1., .* 3 positive numbers"),
        ({"stride": 0}, "out of range"),
        ({"version": 99}, "newer version"),
        ({"stride": "four"}, "wrong type"),
    ],
)
def test_bad_facts_are_told(facts, message):
    with pytest.raises(ModelError, match=message):
        ModelCard.from_dict({"name": "x", **facts}, "x.json")


def test_why_a_model_cannot_be_written_is_told_without_places_in_code(tmp_path):
    (tmp_path / "m.pt.part").mkdir()
    with pytest.raises(OutputError, match=r"could not be written to .*m\.pt: Is a directory$"):
        save_model(small_network(), small_card(), tmp_path / "m.pt")


def test_unwritable_place_is_told_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        save_model(small_network(), small_card(), tmp_path / "file" / "a.pt")


# --- foreign networks -------------------------------------------------------------------------------------------


class FieldAndMoved(MovedAndField):
    """The same in the order of the package voxelmorph 0.3."""

    def forward(self, source: torch.Tensor, target: torch.Tensor):
        moved, field = super().forward(source, target)
        return field, moved


@pytest.mark.parametrize("foreign", [MovedAndField, FieldAndMoved])
def test_traced_foreign_network_is_locked_to_its_shape_and_its_axes_are_turned(foreign, tmp_path):
    path = tmp_path / "foreign.pt"
    torch.jit.save(torch.jit.trace(foreign(), pair(8, 10, 12), check_trace=False), path)
    facts = {
        "spacing_mm": [1, 1, 1],
        "shape": [8, 10, 12],
        "axes": "ijk",
        "returns": "moved and field",
        "output": "displacement",
        "output_scale": 1.0,
    }
    network, card = import_foreign(path, facts)
    save_model(network, card, tmp_path / "own.pt")
    model = load_model(tmp_path / "own.pt")
    assert model.card.shape_kji == (12, 10, 8)
    flow = model.flow(*pair(12, 10, 8))
    assert flow.shape == (1, 3, 12, 10, 8)
    assert flow[0, :, 0, 0, 0].tolist() == [3.0, 2.0, 1.0]


def test_foreign_network_that_returns_no_pair_is_refused(tmp_path):
    path = tmp_path / "foreign.pt"
    torch.jit.save(torch.jit.script(small_network()), path)
    with pytest.raises(ModelError, match="does not return .moved, field."):
        import_foreign(path, {"returns": "moved and field", "stride": 4})


# --- Keras weights ----------------------------------------------------------------------------------------------


def keras_forward(layers, source, target):
    """The published network written out over (i, j, k, channel) arrays, by direct sums."""

    def conv(x, name, activate=True):
        kernel, bias = layers[name]
        padded = np.pad(x, [(1, 1)] * 3 + [(0, 0)])
        out = np.zeros((*x.shape[:3], kernel.shape[-1])) + bias
        for a, b, c in np.ndindex(3, 3, 3):
            out += padded[a : a + x.shape[0], b : b + x.shape[1], c : c + x.shape[2]] @ kernel[a, b, c]
        return np.where(out > 0, out, 0.2 * out) if activate else out

    def pool(x):
        n = [s // 2 for s in x.shape[:3]]
        return x.reshape(n[0], 2, n[1], 2, n[2], 2, -1).max((1, 3, 5))

    first = pool(conv(np.stack([source, target], -1), "enc_conv_0_0"))
    second = conv(first, "enc_conv_1_0")
    low = conv(pool(second), "dec_conv_1_0")
    for axis in range(3):
        low = low.repeat(2, axis)
    joined = conv(np.concatenate([low, second], -1), "dec_conv_0_0")
    return conv(conv(joined, "dec_final_conv_0"), "flow", activate=False)


def test_imported_keras_weights_compute_what_keras_computes(tmp_path):
    layers = write_keras(tmp_path / "weights.h5")
    network, card = import_keras(tmp_path / "weights.h5", "published")
    assert (card.output, card.output_scale, card.orientation, card.stride) == ("velocity", 2.0, "LIA", 4)
    rng = np.random.default_rng(1)
    moving, fixed = rng.random((8, 12, 16)), rng.random((8, 12, 16))
    expected = keras_forward(layers, moving, fixed)
    tensors = [torch.from_numpy(a.transpose(2, 1, 0).astype("f4"))[None, None] for a in (moving, fixed)]
    flow = network(*tensors)[0].detach().numpy()
    # (channel, k, j, i) with channel along its axis -> (i, j, k, channel)
    np.testing.assert_allclose(flow.transpose(3, 2, 1, 0)[..., ::-1], expected, atol=1e-4)


def test_imported_network_is_written_as_a_model_file(tmp_path):
    write_keras(tmp_path / "weights.h5")
    network, card = import_keras(tmp_path / "weights.h5")
    save_model(network, card, tmp_path / "model.pt")
    assert read_card(tmp_path / "model.pt").normalization["method"] == "white-matter"


def test_keras_networks_of_another_layout_are_refused(tmp_path):
    write_keras(tmp_path / "a.h5", unet_half_res=False)
    with pytest.raises(ModelError, match="resizes a full-resolution flow"):
        import_keras(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ModelError, match="no Keras file of a VoxelMorph network"):
        import_keras(tmp_path / "b.h5")


def test_memory_estimate_is_above_the_largest_activation():
    card = ModelCard("x", architecture={"encoder": [16, 32], "decoder": [32, 32], "half_resolution": True})
    assert card.memory_bytes(1000) >= 1000 * 4 * (2 + 16)


def test_warped_by_model_convention_matches_sampling():
    # A displacement of channel 0 moves along tensor axis 0, the same in the model contract and in the transformer.
    image = torch.arange(4.0).reshape(1, 1, 4, 1).expand(1, 1, 4, 3).contiguous()
    flow = torch.zeros(1, 2, 4, 3)
    flow[:, 0] = 1
    assert sampling.warp(image, flow)[0, 0, 0, 0] == 1
