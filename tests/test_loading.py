"""extras/loading.py: checkpoints in the hub's layout, real architectures of all four families
(small, random, with the real special tokens), 4 bits, pixel budgets, chat templates, adapters, and
which way to compute each of them gets."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import (
    ALWAYS_THINKS,
    KNOWS_THE_SWITCH,
    NO_THOUGHT,
    blank_screen,
    hub,
    load_hub,
    observe,
    plain_logprobs,
    projections,
    some_logprobs,
)
from PIL import Image

import agent
import train
from agent import (
    REFERENCE,
    Group,
    Policy,
    Sampling,
    encode,
    make_rollout,
    trainable,
)
from benchmarks.miniwob import MiniWoB
from envs import Action, ToyGUI
from extras import loading, play, shared_prompt, shared_prompt_qwen35
from extras.loading import FAMILIES, choose_forward, load_adapter, load_policy
from extras.made_up import TEMPLATE, make_hub
from extras.run_folder import load_run_policy, read_run
from train import Config, update_policy

each_family = pytest.mark.parametrize("family", FAMILIES)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ---- which way ----------------------------------------------------------------------------------


def of_family(model_type: str) -> SimpleNamespace:
    """As much of a model as is looked at."""
    return SimpleNamespace(config=SimpleNamespace(model_type=model_type))


@each_family
def test_a_family_goes_its_fast_way_unless_told_otherwise(family):
    room = shared_prompt_qwen35 if family == "qwen3_5" else shared_prompt
    assert choose_forward(of_family(family)) is room.SHARED
    assert choose_forward(of_family(family), "shared") is room.SHARED
    assert choose_forward(of_family(family), "reference") is REFERENCE


def test_an_unknown_family_goes_the_plain_way():
    assert choose_forward(of_family("qwen9_vl"), "shared") is REFERENCE


# ---- sampling and training ----------------------------------------------------------------------


@each_family
@pytest.mark.parametrize("forward", ["reference", "shared"])
def test_sampled_logprobs_are_those_of_plain_forwards(family, forward):
    policy = load_policy(hub(family), forward=forward)
    agent.add_lora(policy, 4, 8, 0)
    seen = observe(0, scale=2)
    prompts = encode(policy, [seen, observe(1, scale=2)], 2)
    assert not policy.tiny
    assert prompts[0].ids.count(policy.image_token) == prompts[0].grid.prod() // 4
    groups = policy.forward.sample(policy, prompts, Sampling(2, 2, 1.0, 6), seeded())
    for rollout in groups[0]:
        with torch.no_grad():
            plain = plain_logprobs(policy, seen, prompts[0].ids, rollout.completion_ids)
        torch.testing.assert_close(torch.tensor(rollout.old_logprobs), plain, atol=1e-4, rtol=0)


def sample_pair(policy: Policy) -> Group:
    """Two completions, one to learn and one to unlearn."""
    prompts = encode(policy, [observe(0, scale=2)], 1)
    [rollouts] = policy.forward.sample(policy, prompts, Sampling(1, 2, 1.0, 5), seeded())
    for rollout, advantage in zip(rollouts, (1.0, -1.0), strict=True):
        rollout.advantages = [advantage] * 2
    return Group(None, prompts[0], rollouts)


def gradient_norm(policy: Policy, group: Group, checkpointing: bool) -> float:
    config = Config(gradient_checkpointing=checkpointing)
    optimizer = torch.optim.SGD(trainable(policy), lr=0.0)
    return update_policy(policy, [group], config, optimizer)["grad_norm"]


@each_family
@pytest.mark.parametrize("checkpointing", [False, True])
def test_4_bits_leave_tower_and_head_alone_and_train_after_sampling(family, checkpointing):
    """On CPUs with AVX512-BF16 bitsandbytes would pack the weights while sampling, and no gradient
    would come back."""
    policy = load_hub(family, load_in_4bit=True)
    quantised = []
    for name, module in policy.core.named_modules():
        if type(module).__name__ == "Linear4bit":
            quantised.append(name)
    assert len(quantised) == projections(family)
    assert all(".language_model.layers." in name for name in quantised)
    weight = policy.core.model.language_model.layers[0].mlp.up_proj.weight
    assert weight.quant_state.quant_type == "nf4"
    assert weight.quant_state.nested  # doubly quantised
    agent.add_lora(policy, 4, 8, 0)
    assert len(trainable(policy)) == projections(family) * 2  # A and B
    assert all(weight.dtype == torch.float32 for weight in trainable(policy))
    group = sample_pair(policy)
    assert gradient_norm(policy, group, checkpointing) > 1e-3
    again = sample_pair(policy)  # checkpointing leaves the cache alone
    for rollout, other in zip(group.rollouts, again.rollouts, strict=True):
        assert rollout.completion_ids == other.completion_ids


@each_family
def test_checkpointing_changes_memory_only(family):
    norms = []
    for checkpointing in (False, True):
        policy = load_hub(family)
        agent.add_lora(policy, 4, 8, 0)
        norms.append(gradient_norm(policy, sample_pair(policy), checkpointing))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert norms[0] > 0


# ---- images and frames --------------------------------------------------------------------------


@each_family
@pytest.mark.parametrize("size", [(1080, 2400), (640, 480), (1920, 1080), (50, 40)])
def test_the_pixel_budget_is_honoured(family, size):
    for budget in (200_000, 40_000):
        policy = load_policy(hub(family), max_pixels=budget)
        prompt = encode(policy, [blank_screen(*size)], 1)[0]
        patches = int(prompt.grid.prod())
        assert patches * policy.image_processor.patch_size**2 <= budget
        assert prompt.ids.count(policy.image_token) == patches // 4 == len(prompt.features[0])


def test_each_family_has_its_frame():
    frames = {}
    for family in FAMILIES:
        policy = load_policy(hub(family))
        prompt = encode(policy, [blank_screen(1080, 2400)], 1)[0]
        frames[family] = policy.frame(prompt.grid)
    pixels = frames.pop("qwen2_5_vl")
    assert pixels == (1092, 2408)  # 1080 x 2400 to multiples of 28
    assert set(frames.values()) == {(1000, 1000)}


def test_points_are_read_in_the_pixels_of_the_resized_screenshot():
    small = load_policy(hub("qwen2_5_vl"), max_pixels=500_000)
    prompt = encode(small, [blank_screen(1080, 2400)], 1)[0]
    assert small.frame(prompt.grid) == (448, 1036)  # not those of the screen
    ids = small.tokenizer("click Save (224, 518)<|im_end|>")["input_ids"]
    rollout = make_rollout(small, prompt, ids, [0.0] * len(ids), 1)
    assert rollout.forecast == [Action("click", "Save", (0.5, 0.5))]


# ---- chat templates -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "ending"),
    [
        (TEMPLATE, "<|im_start|>assistant\n"),
        (KNOWS_THE_SWITCH, NO_THOUGHT),
        (ALWAYS_THINKS, NO_THOUGHT),
    ],
    ids=["no thinking", "knows the switch", "always thinks"],
)
def test_thinking_is_off(tmp_path, template, ending):
    policy = load_policy(make_hub(tmp_path, template=template))
    prompt = encode(policy, [observe(0)], 1)[0]
    assert policy.tokenizer.decode(prompt.ids).endswith(ending)


def test_so_it_is_with_the_template_of_qwen35():
    """Which opens a thought itself, unless it is told not to."""
    policy = load_hub("qwen3_5")
    prompt = encode(policy, [observe(0)], 1)[0]
    assert policy.tokenizer.decode(prompt.ids).endswith(NO_THOUGHT)


@pytest.mark.parametrize("name", ["chat_template.json", "chat_template.jinja"])
def test_a_chat_template_in_its_own_file_is_found(tmp_path, dies, name):
    folder = make_hub(tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = config.pop("chat_template")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert "no tokenizer" in dies(load_policy, folder)
    is_json = name.endswith(".json")
    text = json.dumps({"chat_template": template}) if is_json else template
    (folder / name).write_text(text)
    found = encode(load_policy(folder), [observe(0)], 1)[0]
    expected = encode(load_policy(hub()), [observe(0)], 1)[0]
    assert found.ids == expected.ids


# ---- adapters -----------------------------------------------------------------------------------


def test_the_adapter_loads_with_plain_peft(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    policy = load_policy(hub())
    agent.add_lora(policy, 4, 8, 0)
    for weight in trainable(policy):
        generator = torch.Generator().manual_seed(weight.numel())
        weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    policy.peft.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(hub())
    plain = PeftModel.from_pretrained(model, tmp_path).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    logits = policy.core(ids).logits
    assert torch.equal(plain(input_ids=ids).logits, logits)
    assert not torch.equal(load_policy(hub()).core(ids).logits, logits)


def test_an_adapter_of_the_tiny_model_ends_with_one_line(policy, tmp_path, dies):
    agent.add_lora(policy, 4, 8, 0)
    policy.peft.save_pretrained(tmp_path / "adapter")
    assert str(tmp_path / "adapter") in dies(load_policy, hub(), tmp_path / "adapter")


# ---- whole runs ---------------------------------------------------------------------------------

SMALL = ["--horizon=1", "--group_size=2", "--prompts_per_update=2", "--stage1_updates=1"]
SMALL += ["--stage2_updates=1", "--eval_tasks=1", "--threads=1"]


def test_a_hub_model_runs_on_the_toy_gui_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "draw_pictures", lambda *_: None)  # it plays 20 tasks more
    run = tmp_path / "run"
    flags = [*SMALL, "--load_in_4bit", "--tool_agent", "base", "--output_dir", str(run)]
    train.main(["--model", str(hub()), *flags])
    config = json.loads((run / "config.json").read_text())
    assert config["in_4bit"] and config["gradient_checkpointing"]
    assert config["learning_rate"] == 2e-5
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["stage1", "stage2"]
    assert "tool_errors" in lines[1]
    rollout = json.loads((run / "rollouts.jsonl").read_text().splitlines()[0])
    policy = load_run_policy(run, read_run(run))
    assert rollout["prompt_ids"].count(policy.image_token) == 24 * 18
    assert policy.scale_of(ToyGUI) == 6
    assert policy.scale_of(MiniWoB) == 2  # whose pages have letters of their own size
    kinds = {type(module).__name__ for module in policy.core.modules()}
    assert "Linear4bit" in kinds
    picture = tmp_path / "episode.png"
    play.main(["--run", str(run), "--picture", str(picture)])
    assert Image.open(picture).width < 2000
    assert "not solved" in capsys.readouterr().out


def test_qwen35_runs_from_end_to_end_as_policy_and_as_tool_agent(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "draw_pictures", lambda *_: None)  # it plays 20 tasks more
    run = tmp_path / "run"
    name = str(hub("qwen3_5"))
    flags = [*SMALL, "--stage1_updates=2", "--tool_agent", name, "--output_dir", str(run)]
    train.main(["--model", name, *flags])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["stage1", "stage1", "stage2"]
    assert "tool_errors" in lines[2]
    policy = load_run_policy(run, read_run(run))
    assert policy.forward is FAMILIES["qwen3_5"] and policy.scale_of(ToyGUI) == 6
    adapted = [name for name, _ in policy.core.named_parameters() if "lora_A" in name]
    assert len(adapted) == projections("qwen3_5")


def test_mistakes_end_with_one_line_and_leave_nothing_behind(tmp_path, dies, monkeypatch):
    run = tmp_path / "run"
    flags = ["--model", str(hub()), *SMALL, "--output_dir", str(run)]
    assert "/no/such/model" in dies(train.main, [*flags, "--tool_agent", "/no/such/model"])
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert "load_in_4bit" in dies(train.main, [*flags, "--load_in_4bit"])
    assert [path.name for path in run.iterdir()] == [".lock"]


# ---- adapters and damage -------------------------------------------------------------------------


def test_saved_adapters_give_the_same_logits_in_a_fresh_model(tuned, tiny, tmp_path):
    tuned.peft.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors"}
    fresh = load_policy(tiny, tmp_path)
    assert torch.equal(some_logprobs(fresh), some_logprobs(tuned))
    assert (some_logprobs(fresh) - some_logprobs(load_policy(tiny))).abs().max() > 0.1
    assert not trainable(fresh)
    again = load_policy(tiny)
    load_adapter(again, tmp_path, is_trainable=True)
    assert len(trainable(again)) == 4 * 7 * 2


def shallow(tiny: Path, folder: Path) -> Path:
    """The tiny model with two layers instead of four."""
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 2
    config["text_config"].pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_of_another_model_ends_with_one_line(tuned, tiny, tmp_path, dies):
    good = tmp_path / "good"
    two_layers = tmp_path / "two_layers"
    tuned.peft.save_pretrained(good)
    other = load_policy(shallow(tiny, tmp_path / "shallow"))
    agent.add_lora(other, 4, 8, 0)
    other.peft.save_pretrained(two_layers)
    assert str(two_layers) in dies(load_policy, tiny, two_layers)
    assert str(good) in dies(load_policy, tmp_path / "shallow", good)
    rank = shutil.copytree(good, tmp_path / "rank")
    config = rank / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 8}))
    assert str(rank) in dies(load_policy, tiny, rank)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "no config", "bad config"])
def test_a_damaged_adapter_ends_with_one_line(tuned, tiny, tmp_path, dies, damage):
    folder = tmp_path / "adapter"
    if damage != "missing":
        folder.mkdir()
    if damage not in ("missing", "empty"):
        tuned.peft.save_pretrained(folder)
    if damage == "cut":
        whole = (folder / "adapter_model.safetensors").read_bytes()
        (folder / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    if damage == "no config":
        (folder / "adapter_config.json").unlink()
    if damage == "bad config":
        (folder / "adapter_config.json").write_text('{"r": ')
    assert str(folder) in dies(load_policy, tiny, folder)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "no tokenizer", "other family"])
def test_a_damaged_model_ends_with_one_line(tiny, tmp_path, dies, damage):
    folder = tmp_path / "model"
    if damage not in ("missing", "empty"):
        shutil.copytree(tiny, folder)
    if damage == "empty":
        folder.mkdir()
    if damage == "cut":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    if damage == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    if damage == "other family":
        (folder / "config.json").write_text('{"model_type": "bert"}')
    assert str(folder) in dies(load_policy, folder)


@pytest.mark.parametrize("family", ["qwen3_vl_moe", "qwen3_5_moe", "llava", "bert"])
def test_another_family_ends_with_one_line_that_says_what_is_supported(family, tmp_path, dies):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    said = dies(load_policy, tmp_path)
    assert f"{tmp_path} is a {family};" in said
    assert "Qwen3.5" in said
    assert all(supported in said for supported in FAMILIES)


# ---- missing kernels ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "installed", "lines"),
    [("qwen3_5", False, 1), ("qwen3_5", True, 0), ("qwen3_vl", False, 0)],
)
def test_one_line_says_once_that_kernels_are_missing(monkeypatch, capfd, family, installed, lines):
    monkeypatch.setattr(loading, "find_spec", lambda name: installed or None)
    loading.tell_of_the_slow_path.cache_clear()
    for _ in range(2):
        loading.tell_of_the_slow_path(family)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == lines
    assert all("flash-linear-attention" in line for line in said)


def test_a_cpu_hears_nothing_of_missing_kernels(capfd):
    policy = load_hub("qwen3_5")
    capfd.readouterr()
    some_logprobs(policy)
    assert capfd.readouterr() == ("", "")
