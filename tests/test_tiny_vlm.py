"""extras/tiny_vlm.py: the checkpoint that the project makes itself."""

from envs import ToyGUI
from extras.tiny_vlm import make_tiny


def test_the_tiny_model_has_the_hub_models_shape(policy):
    assert policy.core.config.model_type == "qwen3_vl"
    assert policy.tiny
    assert 0.8e6 < sum(weight.numel() for weight in policy.core.parameters()) < 1.5e6


def test_the_seed_decides_the_weights(tiny, tmp_path):
    make_tiny(tmp_path / "again", ToyGUI.words, 0)
    make_tiny(tmp_path / "other", ToyGUI.words, 1)
    folders = (tiny, tmp_path / "again", tmp_path / "other")
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1] != weights[2]
