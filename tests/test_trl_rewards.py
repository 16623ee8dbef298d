"""extras/trl_rewards.py: the same rewards, handed to another trainer."""

import pytest

import agent
from agent import parse_forecast
from envs import Action
from extras.loading import load_policy
from extras.trl_rewards import trl_reward
from rewards import trajectory_reward

BOX = (0.25, 0.5, 0.5, 0.75)
REFERENCE = "click Save\nclick Exit\ndone"


def test_trl_reward_is_the_same_reward():
    texts = ["click Save\nclick Exit\ndone", "click Save\nfly", ""]
    references = [REFERENCE] * 3
    expected = [1.75, 1 - 0.25 * (0.5 + 0.25 + 0.125), -0.25 * 1.875]
    weights = {"gamma": 0.5, "lambda_align": 1.0, "lambda_rep": 0.25}
    reward = trl_reward(parse_forecast, stage=1, horizon=3, **weights)
    assert reward(texts, references) == pytest.approx(expected)
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    assert reward(chats, references) == pytest.approx(expected)


def test_stage_2_asks_for_what_a_tool_agent_makes_of_the_first_step():
    def ground(action, row):
        return Action(action.kind, action.text, row["point"])

    reward = trl_reward(parse_forecast, stage=2, horizon=3, ground=ground)
    texts = ["click Save\nclick Exit\ndone", "click Save\nfly", ""]
    points = [(0.3, 0.6), (0.9, 0.9), (0.3, 0.6)]
    found = reward(texts, [REFERENCE] * 3, boxes=[[BOX]] * 3, point=points)
    assert found == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="row 1: the column reference cannot be read: 'fly'"):
        reward(texts, [REFERENCE, "fly", REFERENCE], point=points)


@pytest.mark.slow
def test_trl_trains_with_our_rewards(tiny, tmp_path):
    """Two steps of TRL's GRPOTrainer (pip install 'trl==1.16.*') on the tiny model, with both
    stages' rewards as reward_funcs."""
    trl = pytest.importorskip("trl", reason="needs pip install 'trl==1.16.*'")
    datasets = pytest.importorskip("datasets")
    from extras import speed

    policy = load_policy(tiny)
    agent.add_lora(policy, 4, 8, 0)
    rows = []
    for observation in speed.make_observations(speed.SHAPES["toy"])[:2]:
        prompt = agent.build_prompt(observation, 3)
        images = [observation.screenshot()]
        rows.append({"prompt": prompt, "images": images, "reference": "click Save\ndone"})
    truth = [Action("click", "Save"), Action("done")]
    stage1 = trl_reward(parse_forecast, stage=1, horizon=3)
    stage2 = trl_reward(parse_forecast, stage=2, horizon=3)
    seen = []

    def watched(completions, reference, **columns):
        found = stage1(completions, reference, **columns)
        for completion, value in zip(completions, found, strict=True):
            forecast, error = parse_forecast(completion[-1]["content"], 3)
            own = trajectory_reward(forecast, truth, 3, readable=error is None)
            assert own.terms["reward"] == value
        seen.extend(found)
        return found

    settings = trl.GRPOConfig(
        str(tmp_path),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=6,
        max_steps=2,
        beta=0.0,
        generation_kwargs={"suppress_tokens": policy.suppressed.tolist()},
        report_to="none",
        save_strategy="no",
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer = trl.GRPOTrainer(
        policy.peft,
        [watched, stage2],
        settings,
        datasets.Dataset.from_list(rows),
        processing_class=speed.make_processor(policy),
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert len(seen) == 8
    assert all(-2 < value < 2 for value in seen)
