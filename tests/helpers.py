"""What several test files call: observations of the toy GUI, a head that favours some tokens,
log-probabilities computed in the plainest way there is, and made-up hub checkpoints."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

import agent
from envs import Observation, ToyGUI
from extras.loading import load_policy
from extras.made_up import make_hub


def observe(
    seed: int, split: str = "test", scale: int = 1, steps: int = 0, plan: tuple = ()
) -> Observation:
    """What is seen in a task after some steps of its oracle."""
    env = ToyGUI(split, scale)
    observation, _ = env.reset(seed)
    for _ in range(steps):
        observation = env.step(env.oracle(1)[0])[0]
    return Observation(observation.instruction, observation.screenshot, observation.history, plan)


def nudge(policy: agent.Policy, suppressed: float = 0.0, eos: float = 0.0):
    """From now on (or inside a with block) the model's head favours the end token, or those that no
    answer may contain."""
    bias = torch.zeros(policy.core.config.text_config.vocab_size)
    bias[policy.suppressed] = suppressed
    bias[policy.tokenizer.eos_token_id] = eos
    return policy.core.lm_head.register_forward_hook(lambda module, args, out: out + bias)


def plain_logits(policy: agent.Policy, observation: Observation, row: list[int]) -> torch.Tensor:
    """[S, V] of one row by one ordinary forward of the whole model from pixels: nothing shared,
    nothing cached, no positions given."""
    pixels = policy.image_processor(images=[observation.screenshot()], return_tensors="pt")
    ids = torch.tensor([row])
    output = policy.core(
        input_ids=ids,
        pixel_values=pixels["pixel_values"],
        image_grid_thw=pixels["image_grid_thw"],
        mm_token_type_ids=(ids == policy.image_token).int(),
        use_cache=False,
    )
    return output.logits[0]


def plain_logprobs(
    policy: agent.Policy,
    observation: Observation,
    ids: list[int],
    completion: list[int],
    temperature: float = 1.0,
) -> torch.Tensor:
    """[C] log-probabilities of a completion after the prompt `ids`, by plain_logits."""
    logits = plain_logits(policy, observation, ids + completion)
    predicting = logits[len(ids) - 1 : -1].float() / temperature
    allowed = predicting.index_fill(1, policy.suppressed, -torch.inf)
    return allowed.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]


# ---- made-up hub checkpoints --------------------------------------------------------------------


def some_logprobs(policy: agent.Policy) -> torch.Tensor:
    """Twenty numbers that tell two sets of weights apart."""
    prompt = agent.encode(policy, [observe(0)], 5)[0]
    with torch.no_grad():
        return plain_logprobs(policy, observe(0), prompt.ids, list(range(20, 40)))


@cache
def hubs_folder() -> TemporaryDirectory:
    return TemporaryDirectory()  # it goes when the tests end


@cache
def hub(family: str = "qwen3_vl") -> Path:
    """The folder of a random Qwen-VL in the hub's layout; written once for all tests."""
    return make_hub(Path(hubs_folder().name) / family, family)


def load_hub(family: str = "qwen3_vl", **how) -> agent.Policy:
    """Its policy, as train.py uses it."""
    return load_policy(hub(family), **how)


def blank_screen(width: int, height: int) -> Observation:
    return Observation("Save it", lambda: Image.new("RGB", (width, height), "white"))
