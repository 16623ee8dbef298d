"""rewards.py: the judge. What a forecast is worth, as pure functions of actions; no model, no torch.

| term     | formula                                                     | range per step | stage |
|----------|-------------------------------------------------------------|----------------|-------|
| align    | gamma^(t-1) lambda_align sim(a_hat_t, a*_t)                 | 0 .. 1         | 1     |
| repeat   | -gamma^(t-1) lambda_rep [a_hat_t stood in a_hat_1:t-1]      | -1 .. 0        | 1     |
| overrun  | -gamma^(t-1) lambda_rep [a step beyond the reference, or one that cannot be read] | -1 .. 0 | 1 |
| grounded | 1[what the tool agent made of a_hat_1 does what a*_1 did]    | 0 or 1         | 2     |

`reward` is the sum of the terms of its stage. `python rewards.py` prints honest and cheating answers with their terms.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from envs import POINTING, Action, Box, inside

# Words that say nothing about which element is meant: "tap the Save button" names Save, and not half of "tap the Exit button".
FILLER = frozenset(
    """a an and at button click field for icon in into item link menu of on onto open option page press select tab tap text
    that the this to tick with""".split())  # noqa: SIM905
POINT_RADIUS = 0.14  # share of each screen side; for data without target boxes (the tolerance of AndroidControl's protocol A)


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def text_similarity(said: str, meant: str) -> float:
    """Agreement of two grounding texts in 0..1: F1 over their words (as multisets, without filler words), and 0 below one half.

    An empty text agrees with nothing, and a part of a word is not the word.

    >>> text_similarity("click the Save button", "Save"), text_similarity("Save", "Exit"), text_similarity("a", "restaurant")
    (1.0, 0.0, 0.0)
    >>> round(text_similarity("the red coat", "coat"), 3)
    0.667
    """
    a, b = ([w for w in _words(t) if w not in FILLER] or _words(t) for t in (said, meant))
    common = sum((Counter(a) & Counter(b)).values())
    f1 = 2 * common / (len(a) + len(b)) if common else 0.0
    return f1 if f1 >= 0.5 else 0.0


def same_text(said: str, meant: str) -> bool:
    """Equality up to case and surrounding or doubled spaces."""
    return " ".join(said.split()).casefold() == " ".join(meant.split()).casefold()


def similarity(predicted: Action, reference: Action) -> float:
    """sim(a_hat, a*) of stage 1, in 0..1: the kinds must be equal, then the arguments are compared.

    Pointing kinds: similarity of the grounding texts; without a reference text, points within POINT_RADIUS. Every other
    kind (typed text, app name, direction, tool call, answer): all or nothing.
    DEPARTURE: the paper leaves sim open. A right kind alone pays nothing: partial credit was seen to stop learning, and paid
    wrong app names in other code.

    >>> similarity(Action("click", "Save"), Action("click", "the Save button")), similarity(Action("type", "a"), Action("type", "ab"))
    (1.0, 0.0)
    """
    if predicted.kind != reference.kind:
        return 0.0
    if reference.kind not in POINTING:
        return float(same_text(predicted.text, reference.text))
    if reference.text:
        return text_similarity(predicted.text, reference.text)
    return float(_near(predicted.point, reference.point))


def _near(a, b) -> bool:
    return a is not None and b is not None and (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 <= POINT_RADIUS**2


def repetitions(forecast: Sequence[Action]) -> list[int]:
    """rep(a_hat_1:t) for each t, 0 or 1: whether this action stood in the forecast before. Any cycle consists of such repeats.

    DEPARTURE: the paper leaves rep open. An indicator is bounded: with lambda_rep <= lambda_align / 2 the true trajectory
    stays the best forecast even where it repeats an action (two scrolls), as long as its grounding texts are single words: a
    paraphrase that leaves a word out of a repeated longer text may lose less in sim than it saves here.

    >>> repetitions([Action("back"), Action("click", "A"), Action("back"), Action("click", "a ")])
    [0, 0, 1, 1]
    """
    def key(a: Action):  # a grounding text that only differs in filler words or in their order names the same element
        words = tuple(sorted(w for w in _words(a.text) if w not in FILLER) or _words(a.text)) if a.kind in POINTING else ()
        return a.kind, words or " ".join(a.text.split()).casefold(), a.point if not a.text else None

    keys = [key(a) for a in forecast]
    return [int(k in keys[:t]) for t, k in enumerate(keys)]


def trajectory_reward(forecast: Sequence[Action], reference: Sequence[Action], horizon: int, gamma: float = 0.9, lambda_align: float = 1.0,
                      lambda_rep: float = 0.3, readable: bool = True) -> tuple[dict[str, float], list[float]]:
    """Stage 1: R(tau_hat, tau*) = sum_t gamma^(t-1) (lambda_align sim_t - lambda_rep rep_t), paper eq. for r_t.

    Returns ({"align", "repeat", "overrun", "reward"}, [r_1 .. r_T+1], each already discounted); reward is the sum.
    * too short: what is missing pays nothing;
    * longer than what is left of the reference: each step too many costs lambda_rep, so padding cannot pay;
    * unreadable (`readable` is False; `forecast` holds the lines before the first bad one): that line and every position after
      it, one beyond the horizon included, cost lambda_rep. An empty or wholly unreadable forecast has the least possible reward.
    DEPARTURE: the paper does not say what the last two are worth.

    >>> save, done = Action("click", "Save"), Action("done")
    >>> trajectory_reward([save, save], [save, done], horizon=2)[0]
    {'align': 1.0, 'repeat': -0.27, 'overrun': 0.0, 'reward': 0.73}
    """
    terms, steps = {"align": 0.0, "repeat": 0.0, "overrun": 0.0}, [0.0] * (horizon + 1)
    repeated = repetitions(forecast[:horizon])
    for t in range(horizon + 1):
        discount = gamma**t
        if t >= len(repeated):
            term, value = "overrun", -lambda_rep if not readable else 0.0
        elif t >= len(reference):
            term, value = "overrun", -lambda_rep
        else:
            terms["align"] += discount * lambda_align * (matched := similarity(forecast[t], reference[t]))
            steps[t] += discount * lambda_align * matched
            term, value = "repeat", -lambda_rep * repeated[t]
        terms[term] += discount * value
        steps[t] += discount * value
    return terms | {"reward": sum(steps)}, steps


def grounded_reward(executed: Action | None, reference: Action, boxes: Sequence[Box] = ()) -> float:
    """Stage 2: r^G in {0, 1}. `executed` is the first forecast step as the frozen tool agent returned it (None: it refused,
    failed, or nothing could be read).

    Pointing kinds: 1[point inside a target box]; where no box is recorded, within POINT_RADIUS of the recorded point.
    DEPARTURE: the paper leaves the other kinds open: their argument must match (typed text, direction, app, tool call, answer).
    """
    if executed is None or executed.kind != reference.kind:
        return 0.0
    if reference.kind not in POINTING:
        return float(same_text(executed.text, reference.text))
    if executed.point is None:
        return 0.0
    return float(any(inside(executed.point, box) for box in boxes) if boxes else _near(executed.point, reference.point))


def group_advantages(steps: np.ndarray, credit: str = "trajectory", std_normalise: bool = True) -> np.ndarray:
    """Advantages of one group: [G, T] discounted step rewards -> [G, T] advantages for the tokens of each step.

    "trajectory" (paper eq.): A = (R - mean R) / std R, the same for every token. "step": the tokens of step t get the return
    from step t on, against its group; a later reward cannot depend on them less, nor an earlier one at all, so the expected
    gradient is the same and its variance smaller. "own": they get the reward of step t alone. That leaves out what the words of a step
    do to later ones, which in a forecast is little (the world does not answer in between), and with it the noise of all later
    steps. All are scaled by one number per group, which keeps gamma's weights.
    A group whose returns are all equal (max - min < 1e-6: a std of floats is never exactly 0) gives zeros.

    >>> group_advantages(np.array([[1.0, 0.0], [0.0, 0.0]]))[:, 0].round(3)
    array([ 1., -1.])
    """
    returns = steps if credit == "own" else np.cumsum(steps[:, ::-1], axis=1)[:, ::-1]
    if credit == "trajectory":
        returns = np.repeat(returns[:, :1], steps.shape[1], axis=1)
    centred = returns - returns.mean(axis=0)
    if np.ptp(returns, axis=0).max() < 1e-6:
        return np.zeros_like(centred)
    return centred / (returns.std(axis=0).max() + 1e-4) if std_normalise else centred


def trl_reward(parse: Callable, stage: int, horizon: int = 5, **weights) -> Callable[..., list[float]]:
    """A `reward_func` for TRL's GRPOTrainer: parse is agent.parse_forecast; the data set has a column `reference` (the lines of
    the true trajectory) and, for stage 2, `executed` may be given by `ground`: a function of (action, row) -> Action or None.

    trainer = GRPOTrainer(reward_funcs=[trl_reward(parse_forecast, stage=1)], ...)
    """
    ground = weights.pop("ground", lambda action, row: action)

    def reward(completions, reference, **columns) -> list[float]:
        scores = []
        for i, completion in enumerate(completions):
            text = completion if isinstance(completion, str) else completion[-1]["content"]
            (forecast, error), (truth, _) = parse(text, horizon), parse(reference[i], horizon)
            if stage == 1:
                scores.append(trajectory_reward(forecast, truth, horizon, readable=error is None, **weights)[0]["reward"])
            elif truth:
                row = {name: values[i] for name, values in columns.items() if isinstance(values, list)}
                executed = ground(forecast[0], row) if forecast else None
                scores.append(grounded_reward(executed, truth[0], row.get("boxes") or ()))
            else:
                raise ValueError(f"row {i}: the column reference cannot be read: {reference[i][:80]!r}")
        return scores

    return reward


def main() -> None:
    """Print what honest and cheating forecasts earn."""
    click, done = (lambda label: Action("click", label)), Action("done")
    truth = [click("Account"), click("Name"), Action("type", "amber"), click("Save"), done]
    answers = {
        "the truth": truth,
        "only the first step": truth[:1],
        "the wrong second step": [truth[0], click("City"), *truth[2:]],
        "one element five times": [click("Account")] * 5,
        "a cycle": [click("Account"), click("Name")] * 2,
        "padded beyond the end": [click("Save"), done, click("Save"), done],
        "everything in one text": [click("Account Name Save City Phone")] * 5,
        "one letter typed": [truth[0], truth[1], Action("type", "a")],
        "nothing": [],
    }
    print(f"reference: {'; '.join(map(str, truth))}\n\n{'forecast':26} {'align':>7} {'repeat':>7} {'overrun':>8} {'reward':>7}")
    for name, forecast in answers.items():
        reference = truth[3:] if "padded" in name else truth
        terms, _ = trajectory_reward(forecast, reference, horizon=5, readable=bool(forecast))
        print(f"{name:26} {terms['align']:7.3f} {terms['repeat']:7.3f} {terms['overrun']:8.3f} {terms['reward']:7.3f}")
    box = (0.0, 0.0, 0.5, 0.2)
    print("\ngrounded: point in the box", grounded_reward(Action("click", "Account", (0.2, 0.1)), truth[0], [box]), "| beside it",
          grounded_reward(Action("click", "Account", (0.6, 0.1)), truth[0], [box]), "| refused", grounded_reward(None, truth[0], [box]))


if __name__ == "__main__":
    main()
