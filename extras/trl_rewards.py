"""The rewards as a `reward_func` for TRL's GRPOTrainer, for models that one GPU does not hold.

Called by a user's own script (docs/models.md shows it, and how EasyR1 and verl take the same
rewards). It trains nothing and imports nothing of TRL."""

from collections.abc import Callable

from envs import Action
from rewards import grounded_reward, trajectory_reward


def trl_reward(
    parse: Callable,
    stage: int,
    horizon: int = 5,
    ground: Callable[[Action, dict], Action | None] = lambda action, row: action,
    **weights: float,
) -> Callable[..., list[float]]:
    """A function that TRL can call: completions and columns of the data set -> a reward for each.

    `parse`: agent.parse_forecast, or functools.partial of it where a model family points in another
    frame than 0..1000. The data set has a column `reference`, the lines of the true trajectory.
    Stage 1: `weights` are gamma, lambda_align and lambda_rep. Stage 2: `ground` says what a tool
    agent makes of (first action, row of the data set), by default the action as it is; a column
    `boxes` may say where a point counts as right; a reference that cannot be read is a ValueError.

    trainer = GRPOTrainer(reward_funcs=[trl_reward(parse_forecast, stage=1)], ...)
    """

    def stage1(text: str, truth: list[Action], row: dict) -> float:
        forecast, error = parse(text, horizon)
        earned = trajectory_reward(forecast, truth, horizon, readable=error is None, **weights)
        return earned.terms["reward"]

    def stage2(text: str, truth: list[Action], row: dict) -> float:
        forecast, _ = parse(text, horizon)
        executed = ground(forecast[0], row) if forecast else None
        return grounded_reward(executed, truth[0], row.get("boxes") or ())

    score = stage1 if stage == 1 else stage2

    def reward(completions, reference, **columns) -> list[float]:
        rewards = []
        for i, completion in enumerate(completions):
            row = {}
            for name, values in columns.items():
                if isinstance(values, list):  # TRL also hands on its trainer's state
                    row[name] = values[i]
            truth, _ = parse(reference[i], horizon)
            if stage == 2 and not truth:
                shown = reference[i][:80]
                raise ValueError(f"row {i}: the column reference cannot be read: {shown!r}")
            rewards.append(score(text_of(completion), truth, row))
        return rewards

    return reward


def text_of(completion: str | list[dict]) -> str:
    """TRL hands on plain text, or a chat whose last message is the answer."""
    if isinstance(completion, str):
        return completion
    return completion[-1]["content"]
