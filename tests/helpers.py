"""What several test files call: observations of the toy GUI, a head that favours some tokens,
log-probabilities and gradients computed in the plainest way there is, made-up hub checkpoints, and
small runs. What tests of recorded data share stands in benchmark_data.py."""

import dataclasses
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from PIL import Image

import agent
from agent import Forward, Policy, Prompt, encode, trainable
from envs import Observation, ToyGUI
from extras.loading import load_policy
from extras.made_up import TEMPLATE, make_hub
from extras.ocr import INSTALL
from train import Config, open_run, parse_config, run_stage


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


# ---- numbers and gradients of a way to compute --------------------------------------------------


@dataclass
class Case:
    """Prompts of unequal lengths with made-up completions, and a weight for each token."""

    observations: list[Observation]
    prompts: list[Prompt]
    completions: list[list[list[int]]]  # [P][G] ids
    weight: torch.Tensor  # [P, G, C]


def make_case(policy: Policy, observations: list[Observation], lengths: list[list[int]]) -> Case:
    generator = torch.Generator().manual_seed(0)
    allowed = torch.tensor([token for token in range(100) if token not in policy.suppressed])
    completions = []
    for row in lengths:
        group = []
        for length in row:
            picked = torch.randint(len(allowed), (length,), generator=generator)
            group.append(allowed[picked].tolist())
        completions.append(group)
    longest = max(max(row) for row in lengths)
    weight = torch.randn(len(lengths), len(lengths[0]), longest, generator=generator)
    return Case(observations, encode(policy, observations, 5), completions, weight)


def score_by(
    forward: Forward, policy: Policy, case: Case, temperature=1.0, checkpointing=False
) -> list[torch.Tensor]:
    """Log-probabilities of each completion by one of the two ways."""
    logprobs, mask = forward.completion_logprobs(
        policy, case.prompts, case.completions, temperature, checkpointing
    )
    assert (logprobs[~mask] == 0).all()
    scored = []
    for p, group in enumerate(case.completions):
        assert mask[p].sum(-1).tolist() == [len(tokens) for tokens in group]
        for g in range(len(group)):
            scored.append(logprobs[p, g][mask[p, g]])
    return scored


def score_plain(policy: Policy, case: Case, temperature=1.0) -> list[torch.Tensor]:
    """The same by an ordinary forward a completion, from pixels."""
    scored = []
    for seen, prompt, group in zip(case.observations, case.prompts, case.completions, strict=True):
        for tokens in group:
            scored.append(plain_logprobs(policy, seen, prompt.ids, tokens, temperature))
    return scored


def gradients(policy: Policy, case: Case, scored: list[torch.Tensor]) -> list[torch.Tensor]:
    """Of the weighted sum of all log-probabilities, for each adapter."""
    for weight in trainable(policy):
        weight.grad = None
    total = 0.0
    for logprobs, weight in zip(scored, case.weight.flatten(0, 1), strict=True):
        total = total + (logprobs * weight[: len(logprobs)]).sum()
    total.backward()
    return [weight.grad.clone() for weight in trainable(policy)]


def assert_close(scored: list[torch.Tensor], plain: list[torch.Tensor]) -> None:
    for logprobs, expected in zip(scored, plain, strict=True):
        torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)


def assert_same_gradients(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for gradient, other in zip(found, expected, strict=True):
        assert other.norm() > 0
        assert (gradient - other).norm() <= 1e-4 * other.norm()


def count_forwards(policy: Policy) -> list[int]:
    """A list that grows at each forward of the first layer."""
    calls = []
    activation = policy.core.model.language_model.layers[0].mlp.act_fn
    activation.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def wake_adapters(policy: Policy) -> None:
    """Adapters that do something: fresh ones are zero, and so is the gradient of one half."""
    agent.add_lora(policy, 4, 8, 0)
    generator = torch.Generator().manual_seed(1)
    for weight in trainable(policy):
        weight.data = torch.randn(weight.shape, generator=generator) * 0.1


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
    """The folder of a random model in the hub's layout; written once for all tests."""
    return make_hub(Path(hubs_folder().name) / family, family)


def load_hub(family: str = "qwen3_vl", **how) -> agent.Policy:
    """Its policy, as train.py uses it."""
    return load_policy(hub(family), **how)


def projections(family: str) -> int:
    """How many modules of a made-up checkpoint get adapters, and are quantised."""
    attention = 4
    linear_attention = 5
    mlp = 3
    if family == "qwen3_5":
        return 3 * (linear_attention + mlp) + 1 * (attention + mlp)
    return 2 * (attention + mlp)


def blank_screen(width: int, height: int) -> Observation:
    return Observation("Save it", lambda: Image.new("RGB", (width, height), "white"))


# ---- chat templates of models that think --------------------------------------------------------

ASSISTANT = "assistant\n{%"  # the end of TEMPLATE, where the answer begins
NO_THOUGHT = "<think>\n\n</think>\n\n"
KNOWS_THE_SWITCH = TEMPLATE.replace(
    ASSISTANT,
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    + NO_THOUGHT
    + "{% endif %}{%",
)
ALWAYS_THINKS = TEMPLATE.replace(ASSISTANT, "assistant\n<think>\n{%")


def a_label_to_read():
    """An example of the toy GUI at twice its size and the label that its oracle clicks; skips where
    nothing can read."""
    for package in ("rapidocr", "onnxruntime"):
        pytest.importorskip(package, reason=f"OCR is optional: {INSTALL}")
    env = ToyGUI("test", scale=2)
    env.reset(0)
    return env.example(horizon=1), env.oracle(1, exact=True)[0].text


# ---- small runs ---------------------------------------------------------------------------------


def settings(**changes) -> Config:
    small = Config(env="toy-gui", horizon=2, group_size=4, max_grad_norm=1e9)
    return dataclasses.replace(small, **changes)


def small(folder, tiny, **changes) -> Config:
    """A stage 1 of four updates in a moment."""
    return settings(
        output_dir=str(folder),
        model=str(tiny),
        prompts_per_update=3,
        stage1_updates=4,
        save_every=2,
        train_tasks=20,
        max_grad_norm=1.0,
        lora_rank=4,
        **changes,
    )


def train_stage1(config: Config) -> list[torch.Tensor]:
    """Opens the run, runs stage 1 and returns the adapters."""
    run, policy = open_run(config)
    agent.add_lora(policy, config.lora_rank, config.lora_alpha, config.seed)
    run_stage(policy, config, "stage1", run)
    return [weight.detach().clone() for weight in trainable(policy)]


def make_run(folder: Path, policy: agent.Policy, base: Path, world: str = "toy-gui") -> Path:
    """A finished run as train.py leaves it: config, adapters after stage 1 and at the end."""
    folder.mkdir()
    config = parse_config(["--horizon", "2", "--env", world, "--output_dir", str(folder)])
    written = {"base": str(base), "in_4bit": False} | asdict(config)
    (folder / "config.json").write_text(json.dumps(written))
    for adapter in ("stage1", "adapter"):
        policy.peft.save_pretrained(folder / adapter)
    return folder
