"""Shared by all tests: one thread, no network, the scripts on the path, a tiny checkpoint that is made once."""

import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytest
import torch
from hypothesis import settings

import agent

torch.set_num_threads(1)  # two threads on two busy cores were up to twenty times slower
settings.register_profile("house", deadline=None, derandomize=True)  # a suite that says the same thing each time
settings.load_profile("house")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than about ten seconds; leave out with -m 'not slow'")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Folder of an untrained tiny checkpoint."""
    folder = tmp_path_factory.mktemp("tiny")
    agent.make_tiny(folder, agent.TOY_WORDS, 0)
    return folder


@pytest.fixture
def policy(tiny) -> agent.Policy:
    """The untrained policy without adapters, fresh for each test."""
    return agent.load_policy(tiny)


@pytest.fixture
def tuned(tiny) -> agent.Policy:
    """The same with adapters that do something: fresh ones are zero, and so would be the gradient of one half of them."""
    policy = agent.load_policy(tiny)
    agent.add_lora(policy, 4, 8, 0)
    generator = torch.Generator().manual_seed(1)
    for p in agent.trainable(policy):
        p.data = torch.randn(p.shape, generator=generator) * 0.1
    return policy


@pytest.fixture
def dies(capfd):
    """dies(f, *args, **kwargs): f ends as a user's mistake should, with exit code 2 and one line; returns that line."""
    def check(f, *args, **kwargs) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            f(*args, **kwargs)
        lines = [line for line in capfd.readouterr().err.splitlines() if "%|" not in line and line]  # not the progress bars
        assert end.value.code == 2
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        return lines[0]

    return check
