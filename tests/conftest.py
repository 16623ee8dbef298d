"""Shared by all tests: one thread, no network, the scripts on the path, a tiny checkpoint that is
made once. What tests call by name stands in helpers.py."""

import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytest
import torch
from hypothesis import settings

import agent
from envs import ToyGUI
from extras.loading import load_policy
from extras.tiny_vlm import make_tiny

torch.set_num_threads(1)  # two threads on two busy cores were up to twenty times slower
# No deadline and no chance: a suite that says the same thing each time.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Folder of an untrained tiny checkpoint."""
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny(folder, ToyGUI.words, 0)
    return folder


@pytest.fixture
def policy(tiny) -> agent.Policy:
    """The untrained policy without adapters, fresh for each test, as train.py uses it."""
    return load_policy(tiny)


@pytest.fixture
def tuned(policy) -> agent.Policy:
    """The same with adapters that do something: fresh ones are zero, and so would be the gradient
    of one half of them."""
    agent.add_lora(policy, 4, 8, 0)
    generator = torch.Generator().manual_seed(1)
    for weight in agent.trainable(policy):
        weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    return policy


@pytest.fixture
def dies(capfd):
    """dies(f, *args, **kwargs): f ends as a user's mistake should, with exit code 2 and one line;
    returns that line."""

    def check(f, *args, **kwargs) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            f(*args, **kwargs)
        lines = []
        for line in capfd.readouterr().err.splitlines():
            is_progress_bar = "%|" in line
            if line and not is_progress_bar:
                lines.append(line)
        assert end.value.code == 2
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: "), lines
        return lines[0]

    return check
