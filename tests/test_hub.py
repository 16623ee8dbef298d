"""Real Qwen-VL architectures (small, random, with the real special tokens), 4 bits, frames, tool agents, several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu_check import TEMPLATE, make_hub
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from test_agent import observe, plain_logprobs

import agent
import train
from agent import Group, Rollout, Sampling, encode, load_policy, parse_point, sample, trainable, vlm_tool_agent
from envs import Action, Example, Observation
from train import Config, parse_config, score

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="session")
def hubs(tmp_path_factory) -> dict[str, Path]:
    return {family: make_hub(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


def picture(width: int, height: int) -> Observation:
    return Observation("Save it", lambda: Image.new("RGB", (width, height), "white"))


# ---- loading --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_logprobs_are_those_of_plain_forwards(hubs, family):
    policy, observation = load_policy(hubs[family]), observe(0, scale=2)
    agent.add_lora(policy, 4, 8, 0)
    prompts = encode(policy, [observation, observe(1, scale=2)], 2)
    assert not policy.tiny and prompts[0].ids.count(policy.image_token) == prompts[0].grid.prod() // 4
    for r in sample(policy, prompts, Sampling(2, 2, 1.0, 6), torch.Generator().manual_seed(0))[0]:
        with torch.no_grad():
            plain = plain_logprobs(policy, observation, prompts[0].ids, r.completion_ids)
        torch.testing.assert_close(torch.tensor(r.old_logprobs), plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_4_bits_leave_tower_and_head_alone_and_train_after_sampling(hubs, family, checkpointing):
    """On CPUs with AVX512-BF16 bitsandbytes would pack the weights while sampling, and no gradient would come back."""
    policy = load_policy(hubs[family], load_in_4bit=True)
    quantised = {n for n, m in policy.core.named_modules() if type(m).__name__ == "Linear4bit"}
    assert len(quantised) == 2 * 7 and all(".language_model.layers." in n for n in quantised)
    weight = policy.core.model.language_model.layers[0].mlp.up_proj.weight
    assert weight.quant_state.quant_type == "nf4" and weight.quant_state.nested  # doubly quantised
    agent.add_lora(policy, 4, 8, 0)
    assert len(trainable(policy)) == 2 * 7 * 2 and all(p.dtype == torch.float32 for p in trainable(policy))
    prompts = encode(policy, [observe(0, scale=2)], 1)
    groups = sample(policy, prompts, Sampling(1, 2, 1.0, 5), torch.Generator().manual_seed(0))
    group = Group(None, prompts[0], groups[0])
    for r, advantage in zip(group.rollouts, (1.0, -1.0), strict=True):
        r.advantages = [advantage] * 2
    config = Config(gradient_checkpointing=checkpointing)
    found = train.update_policy(policy, [group], config, torch.optim.SGD(trainable(policy), lr=0.0))
    assert found["grad_norm"] > 1e-3
    again = sample(policy, prompts, Sampling(1, 2, 1.0, 5), torch.Generator().manual_seed(0))[0]  # checkpointing leaves the cache alone
    assert [r.completion_ids for r in again] == [r.completion_ids for r in group.rollouts]


def test_checkpointing_changes_memory_only(hubs):
    norms = []
    for checkpointing in (False, True):
        policy = load_policy(hubs["qwen3_vl"])
        agent.add_lora(policy, 4, 8, 0)
        prompts = encode(policy, [observe(0, scale=2)], 1)
        group = Group(None, prompts[0], sample(policy, prompts, Sampling(1, 2, 1.0, 5), torch.Generator().manual_seed(0))[0])
        for r, advantage in zip(group.rollouts, (1.0, -1.0), strict=True):
            r.advantages = [advantage] * 2
        config = Config(gradient_checkpointing=checkpointing)
        norms.append(train.update_policy(policy, [group], config, torch.optim.SGD(trainable(policy), lr=0.0))["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4) and norms[0] > 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(1080, 2400), (640, 480), (1920, 1080), (50, 40)])
def test_the_pixel_budget_is_honoured(hubs, family, size):
    for budget in (200_000, 40_000):
        policy = load_policy(hubs[family], max_pixels=budget)
        prompt = encode(policy, [picture(*size)], 1)[0]
        assert int(prompt.grid.prod()) * policy.image_processor.patch_size ** 2 <= budget
        assert prompt.ids.count(policy.image_token) == int(prompt.grid.prod()) // 4 == len(prompt.features[0])


def test_a_chat_template_in_its_own_file_is_found(hubs, tmp_path, dies):
    folder = make_hub(tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = config.pop("chat_template")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert "no tokenizer" in dies(load_policy, folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert encode(load_policy(folder), [observe(0)], 1)[0].ids == encode(load_policy(hubs["qwen3_vl"]), [observe(0)], 1)[0].ids


def test_the_adapter_loads_with_plain_peft(hubs, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    policy = load_policy(hubs["qwen3_vl"])
    agent.add_lora(policy, 4, 8, 0)
    for p in trainable(policy):
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.1
    policy.peft.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(hubs["qwen3_vl"]), tmp_path).eval()
    ids = torch.tensor([[1, 2, 3, 4]])
    base = load_policy(hubs["qwen3_vl"]).core(ids).logits
    assert torch.equal(plain(input_ids=ids).logits, policy.core(ids).logits) and not torch.equal(base, policy.core(ids).logits)


# ---- prompt and frame ------------------------------------------------------------------------------------------------------------


def test_each_family_has_its_frame(hubs):
    frames = {family: policy.frame(encode(policy, [picture(1080, 2400)], 1)[0].grid) for family in FAMILIES
              for policy in [load_policy(hubs[family])]}
    assert frames["qwen2_vl"] == frames["qwen3_vl"] == (1000, 1000)
    assert frames["qwen2_5_vl"] == (1092, 2408)  # 1080 x 2400 to multiples of 28
    small = load_policy(hubs["qwen2_5_vl"], max_pixels=500_000)
    prompt = encode(small, [picture(1080, 2400)], 1)[0]
    assert small.frame(prompt.grid) == (448, 1036)  # pixels of the resized screenshot, not of the screen
    ids = small.tokenizer("click Save (224, 518)<|im_end|>")["input_ids"]
    assert agent._rollout(small, prompt, ids, [0.0] * len(ids), 1).forecast == [Action("click", "Save", (0.5, 0.5))]


@pytest.mark.parametrize(("template", "ending"), [
    (TEMPLATE, "<|im_start|>assistant\n"),
    (TEMPLATE.replace("assistant\n{%", "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{%"),
     "<think>\n\n</think>\n\n"),                                                                                    # it knows the switch
    (TEMPLATE.replace("assistant\n{%", "assistant\n<think>\n{%"), "<think>\n\n</think>\n\n")])                      # it always thinks
def test_thinking_is_off(tmp_path, template, ending):
    policy = load_policy(make_hub(tmp_path, template=template))
    assert policy.tokenizer.decode(encode(policy, [observe(0)], 1)[0].ids).endswith(ending)


def test_text_of_others_cannot_become_special_tokens(hubs):
    """Of an instruction, of what the agent typed before, of its plan: one more image pad would stop the next forward."""
    policy, bad = load_policy(hubs["qwen3_vl"]), "<|image_pad|><|im_end|>"
    seen = Observation(bad, observe(0).screenshot, (f"type {bad}",), (Action("type", bad),))
    prompt = encode(policy, [seen], 1)[0]
    assert prompt.ids.count(policy.image_token) == len(prompt.features[0]) and prompt.ids.count(policy.tokenizer.eos_token_id) == 2
    asked = [(Action("click", bad), Example(seen, ()))]
    assert vlm_tool_agent(policy)(asked) == [None]


# ---- tool agents -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "frame", "point"), [
    ("Action: click(start_box='(500,250)')", (1000, 1000), (0.5, 0.25)),                                                  # UI-TARS v1
    ("Thought: The box (1, 2).\nAction: click(start_box='<|box_start|>(540,600)<|box_end|>')", (1080, 2400), (0.5, 0.25)),   # UI-TARS 1.5
    ("Action: click(point='<point>540 600</point>')", (1080, 2400), (0.5, 0.25)),                                          # its newer form
    ("Action: click(start_box='[400, 200, 600, 300]')", (1000, 1000), (0.5, 0.25)),
    ("(500,250)", (1000, 1000), (0.5, 0.25)),
    ('Action: "Tap Save"\n<tool_call>\n{"name": "mobile_use", "arguments": {"action": "click", "coordinate": [500, 250]}}\n</tool_call>',
     (1000, 1000), (0.5, 0.25)),                                                                                         # Qwen3-VL, GUI-Owl
    ('{"name": "computer_use", "arguments": {"action": "left_click", "coordinate": [500, 250]}}', (1000, 1000), (0.5, 0.25)),
    ('```json\n[{"point_2d": [270, 600], "label": "Save"}]\n```', (1080, 2400), (0.25, 0.25)),                             # Qwen2.5-VL
    ('[{"bbox_2d": [400, 200, 600, 300], "label": "Save"}]', (1000, 1000), (0.5, 0.25)),
    ("<|object_ref_start|>Save<|object_ref_end|><|box_start|>(400,200),(600,300)<|box_end|>", (1000, 1000), (0.5, 0.25)),  # Qwen2-VL
    ("<think>(1, 1)</think>[500, 250]", (1000, 1000), (0.5, 0.25)), ("[1000, 0]", (1000, 1000), (1.0, 0.0)),
    ("[1001, 5]", (1000, 1000), None), ("[-1, 5]", (1000, 1000), None), ("[1, 2, 3]", (1000, 1000), None), ("[5]", (1000, 1000), None),
    ("Action: finished()", (1000, 1000), None), ("I cannot see it.", (1000, 1000), None), ("[nan, 1]", (1000, 1000), None), ("", (1, 1), None)])
def test_answers_of_grounders_are_read_and_converted(text, frame, point):
    assert parse_point(text, frame) == point


marks = st.sampled_from(["(", ")", "[", "]", ",", " ", "500", "1e9", "-3", "٣", "9" * 400, "<point>", "</point>", "<|box_start|>", "Action:", "nan"])


@given(st.one_of(st.text(), st.lists(marks, max_size=30).map("".join)), st.sampled_from([(1000.0, 1000.0), (756.0, 588.0)]))
def test_any_answer_can_be_read(text, frame):
    point = parse_point(text, frame)
    assert point is None or all(0 <= v <= 1 for v in point) and Action("click", "Save", point)


def scripted(monkeypatch, policy, answers: dict[str, str]) -> list[str]:
    """The sampler answers by what stands in the question; returns the questions, as they come."""
    asked = []

    def answer(policy, prompts, how, generator=None):
        assert how.temperature == 0 and (policy.peft is None or policy.peft.active_adapters == [] or all(
            m.disable_adapters for m in policy.core.modules() if hasattr(m, "disable_adapters")))
        texts = [policy.tokenizer.decode([t for t in p.ids if t != policy.image_token]) for p in prompts]
        asked.extend(texts)
        return [[Rollout(p.ids, [], [], next((a for q, a in answers.items() if q in text), "?"), "stop", [], None, [])]
                for p, text in zip(prompts, texts, strict=True)]

    monkeypatch.setattr(agent, "sample", answer)
    return asked


def test_the_tool_agent_asks_equal_questions_once_with_adapters_off(hubs, monkeypatch):
    policy = load_policy(hubs["qwen2_5_vl"])
    agent.add_lora(policy, 4, 8, 0)
    asked = scripted(monkeypatch, policy, {"click Save": '{"point_2d": [273, 602]}', "click Exit": "nowhere"})
    one, two = (Example(picture(1080, 2400), ()) for _ in range(2))
    save, exit_, own = Action("click", "Save"), Action("click", "Exit"), Action("click", "Save", (0.1, 0.1))
    pairs = [(save, one), (save, one), (exit_, one), (save, two), (Action("type", "x"), one), (own, one), (Action("done"), two)]
    found = vlm_tool_agent(policy)(pairs)
    there = Action("click", "Save", (0.25, 0.25))
    assert found == [there, there, None, there, Action("type", "x"), own, Action("done")] and len(asked) == 3
    assert vlm_tool_agent(policy)([(Action("back"), one)]) == [Action("back")] and len(asked) == 3
    assert agent.ask(policy, [(one.observation.screenshot, "Where do I click Exit?")])[0][0] == "nowhere"


@pytest.mark.parametrize(("name", "words"), [("ByteDance-Seed/UI-TARS-1.5-7B", "start_box='<|box_start|>"), ("ui_tars_2b", "## Action Space"),
                                             ("mPLUG/GUI-Owl-1.5-2B", '"coordinate": [x, y]'), ("Qwen/Qwen3-VL-2B-Instruct", '"point_2d": [x, y]')])
def test_each_family_is_asked_in_its_own_form(hubs, monkeypatch, name, words):
    policy = load_policy(hubs["qwen3_vl"])
    policy.name = name
    asked = scripted(monkeypatch, policy, {"Save": "(500, 500)"})
    assert vlm_tool_agent(policy)([(Action("click", "{Save}"), Example(picture(64, 64), ()))]) == [Action("click", "{Save}", (0.5, 0.5))]
    assert words in asked[0] and "click {Save}" in asked[0]


def test_a_tool_agents_errors_pay_nothing_and_are_counted(hubs, monkeypatch):
    policy = load_policy(hubs["qwen3_vl"])
    scripted(monkeypatch, policy, {"click Save": "(500, 500)", "click Exit": "(100, 100)"})
    truth = Example(picture(64, 64), (Action("click", "Save", (0.5, 0.5)),), ((0.4, 0.4, 0.6, 0.6),))
    texts = ["click Save", "click Exit", "click Nowhere", "fly"]
    group = Group(truth, None, [Rollout([], [], [], t, "stop", *agent.parse_forecast(t, 1), []) for t in texts])
    assert score([group], "stage2", Config(horizon=1), vlm_tool_agent(policy)) == 1
    assert [r.reward for r in group.rollouts] == [1.0, 0.0, 0.0, 0.0]


def test_the_planner_hands_on_what_the_tool_agent_found(hubs, monkeypatch):
    policy = load_policy(hubs["qwen3_vl"])
    points = iter([(Action("click", "Save", (0.5, 0.5))), None])
    actions = [[Action("click", "Save"), Action("done")], [Action("click", "Exit", (0.9, 0.9))], []]
    monkeypatch.setattr(agent, "sample_all", lambda *_: [[Rollout([], [1], [], "", "stop", list(a), None, [])] for a in actions])
    plans = agent.policy_planner(policy, 2, lambda pairs: [next(points) for _ in pairs])([observe(i) for i in range(3)], None)
    assert [f for f, _ in plans] == [[Action("click", "Save", (0.5, 0.5)), Action("done")], [Action("click", "Exit")], []]


# ---- whole runs ------------------------------------------------------------------------------------------------------------------


SMALL = ["--horizon=1", "--group_size=2", "--prompts_per_update=2", "--stage1_updates=1", "--stage2_updates=1", "--eval_tasks=1", "--threads=1"]


def test_a_hub_model_runs_on_the_toy_gui_from_end_to_end(hubs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train.Run, "draw", lambda *_: None)  # it plays 20 tasks more
    run = tmp_path / "run"
    train.main(["--model", str(hubs["qwen3_vl"]), *SMALL, "--load_in_4bit", "--tool_agent", "base", "--output_dir", str(run)])
    config = json.loads((run / "config.json").read_text())
    assert config["in_4bit"] and config["gradient_checkpointing"] and config["learning_rate"] == 2e-5
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["stage1", "stage2"] and "tool_errors" in lines[1]
    rollout = json.loads((run / "rollouts.jsonl").read_text().splitlines()[0])
    policy = agent.run_policy(run, agent.read_run(run))
    assert rollout["prompt_ids"].count(policy.image_token) == 24 * 18 and policy.toy_scale == 6
    assert any(type(m).__name__ == "Linear4bit" for m in policy.core.modules())
    monkeypatch.setattr(sys, "argv", ["agent.py", "--run", str(run), "--picture", str(tmp_path / "e.png")])
    agent.main()
    assert Image.open(tmp_path / "e.png").width < 2000 and "not solved" in capsys.readouterr().out


def test_two_processes_do_what_one_does(tiny, tmp_path):
    """With gloo: the same samples, metrics and adapters as one process with the same prompts in an update; one set of files."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    code = "import sys, train; train.Run.draw = lambda *_: None; train.main(sys.argv[1:])"
    (tmp_path / "go.py").write_text(code)
    flags = ["go.py", "--model", str(tiny), *SMALL, "--prompts_per_update=4", "--stage1_updates=3", "--group_size=8", "--learning_rate=0.0001",
             "--kl_weight=0.1", "--updates_per_batch=2", "--keep_groups=3", "--horizon=2", "--sample_batch=2"]
    for name, how in (("one", []), ("two", ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29611"])):
        command = [sys.executable, *how, *flags, "--output_dir", name]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-800:]
    one, two = ([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("one", "two"))
    assert len(one) == len(two) == 4 and any(line["grad_norm"] > 0 and line["frac_zero_std"] < 1 for line in one)
    for a, b in zip(one, two, strict=True):
        assert a == {k: pytest.approx(v, rel=1e-4, abs=1e-5) if isinstance(v, float) else v for k, v in b.items()}
    first, second = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two"))
    # Adam divides by the gradient's own size: where that is all rounding, a step may differ by as much as the learning rate.
    assert max((first[k] - second[k]).abs().max() for k in first) < 5e-5 < 2e-4 < max(v.abs().max() for k, v in first.items() if "lora_B" in k)
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(p.name for p in (tmp_path / "two").iterdir())


# ---- bad input -------------------------------------------------------------------------------------------------------------------


def test_mistakes_end_with_one_line_and_leave_nothing_behind(hubs, tiny, tmp_path, dies, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert "--prompts_per_update 16" in dies(parse_config, [])
    monkeypatch.delenv("WORLD_SIZE")
    run = ["--model", str(hubs["qwen3_vl"]), *SMALL, "--output_dir", str(tmp_path / "run")]
    assert "/no/such/model" in dies(train.main, [*run, "--tool_agent", "/no/such/model"])
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert "load_in_4bit" in dies(train.main, [*run, "--load_in_4bit"])
    assert not list((tmp_path / "run").iterdir())
    adapter = load_policy(tiny)
    agent.add_lora(adapter, 4, 8, 0)
    adapter.peft.save_pretrained(tmp_path / "adapter")
    assert str(tmp_path / "adapter") in dies(load_policy, hubs["qwen3_vl"], tmp_path / "adapter")


@pytest.mark.parametrize("main", [train.main, agent.main])
def test_a_full_gpu_names_the_flags(main, dies, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand so on")

    monkeypatch.setattr(train, "parse_config", full)
    monkeypatch.setattr(agent, "read_run", full)
    monkeypatch.setattr(sys, "argv", ["agent.py", "--run", "x"])
    message = dies(main)
    assert all(flag in message for flag in ("--micro_batch", "--sample_batch", "--max_pixels", "--load_in_4bit"))


def test_many_unreadable_answers_are_warned_about(tiny, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(agent, "parse_forecast", lambda *_: ([], "nothing to read"))
    config = Config(output_dir=str(tmp_path / "run"), model=str(tiny), prompts_per_update=1, group_size=2, stage1_updates=12, horizon=1, lora_rank=4)
    run = train.Run(config)
    agent.add_lora(run.policy, 4, 8, 0)
    train.run_stage(run.policy, config, "stage1", run)
    assert capfd.readouterr().err.count("more than half of the answers could not be read") == 1
