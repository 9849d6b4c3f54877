"""Fixtures of several tests of the registration."""

import pytest

from small_models import save_centroid_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_centroid_model(tmp_path_factory.mktemp("models") / "centroid.pt")
