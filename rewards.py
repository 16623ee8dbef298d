"""rewards.py: the judge. What a forecast is worth, as pure functions of actions; no model.

| term     | stage | for one step       | formula                                             |
|----------|-------|--------------------|-----------------------------------------------------|
| align    | 1     | 0 .. lambda_align  | gamma^(t-1) lambda_align sim(a_hat_t, a*_t)         |
| repeat   | 1     | -lambda_rep .. 0   | -gamma^(t-1) lambda_rep, if a_hat_t stood before t  |
| overrun  | 1     | -lambda_rep .. 0   | -gamma^(t-1) lambda_rep, for a step beyond the      |
|          |       |                    | reference, or one that cannot be read               |
| state    | 1     | 0 .. lambda_align  | gamma^(t-1) lambda_align sim(s_hat_t, s*_t), only   |
|          |       |                    | with --forecast_states: what is seen after a step   |
| grounded | 2     | 0 or 1             | 1[what the tool agent made of a_hat_1 does a*_1]    |

`reward` is the sum of the terms of its stage. `python rewards.py` prints honest and cheating
answers with their terms.

From envs.py: an Action has a kind, a text that says what is meant, maybe a point, for a drag an
end, and what it `expects` to be seen; POINTING are the kinds that need a place on the screen;
split_drag cuts "Box to Bin" in two.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs import POINTING, Action, Box, Point, inside, split_drag

# ---- similarity of two actions ------------------------------------------------------------------

# Words that say nothing about which element is meant. With them "tap the Save button" would agree
# with "tap the Exit button" in three words of four.
FILLER_WORDS = (
    "a an and at button click field for icon in into item link menu of on onto open option page "
    "press select tab tap text that the this to tick with"
)
FILLER = frozenset(FILLER_WORDS.split())
# Share of each screen side; for data without target boxes (the tolerance of AndroidControl's
# protocol A).
POINT_RADIUS = 0.14


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; what is neither letter nor digit separates them."""
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def naming_words(text: str) -> list[str]:
    """The words that name an element: "Save" of "tap the Save button". A text of nothing but filler
    keeps its words: a button can be called "Open"."""
    words = words_of(text)
    names = [word for word in words if word not in FILLER]
    return names if names else words


def text_similarity(said: str, meant: str) -> float:
    """Agreement of two grounding texts in 0..1: 1 for the same text, else F1 over their words (as
    multisets, without filler words), and 0 below one half: a text that names every element must not
    be paid for one of them.

    An empty text agrees with nothing, and a part of a word is not the word.

    >>> text_similarity("click the Save button", "Save"), text_similarity("Save", "Exit")
    (1.0, 0.0)
    >>> text_similarity("a", "restaurant")
    0.0
    >>> round(text_similarity("the red coat", "coat"), 3)
    0.667
    """
    if said.strip() and same_text(said, meant):
        return 1.0  # "+" has no words
    said_words = naming_words(said)
    meant_words = naming_words(meant)
    common = sum((Counter(said_words) & Counter(meant_words)).values())
    if common == 0:
        return 0.0
    f1 = 2 * common / (len(said_words) + len(meant_words))
    return f1 if f1 >= 0.5 else 0.0


def same_text(said: str, meant: str) -> bool:
    """Equality up to case and surrounding or doubled spaces."""
    return folded(said) == folded(meant)


def folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def similarity(predicted: Action, reference: Action) -> float:
    """sim(a_hat, a*) of stage 1, in 0..1: the kinds must be equal, then the arguments are compared.

    Pointing kinds: similarity of the grounding texts; without a reference text, points within
    POINT_RADIUS. A drag: the less similar of its two ends; without a reference text, the point and,
    where one is recorded, the end within POINT_RADIUS. Every other kind (typed text, app name,
    direction, tool call, answer): all or nothing.
    DEPARTURE: the paper leaves sim open. A right kind alone pays nothing: learning was seen to stop
    at such partial credit, and in other code a wrong app name earned it. Of a drag, one right end
    alone pays nothing either.

    >>> similarity(Action("click", "Save"), Action("click", "the Save button"))
    1.0
    >>> similarity(Action("type", "a"), Action("type", "ab"))
    0.0
    >>> similarity(Action("drag", "Bin to Box"), Action("drag", "Box to Bin"))
    0.0
    """
    if predicted.kind != reference.kind:
        return 0.0
    if reference.kind not in POINTING:
        return float(same_text(predicted.text, reference.text))
    if reference.text:
        return grounding_similarity(predicted, reference)
    return float(near(predicted.point, reference.point) and ends_agree(predicted, reference))


def grounding_similarity(predicted: Action, reference: Action) -> float:
    """Similarity of two grounding texts in 0..1; of a drag that of the end that agrees less."""
    if reference.kind == "drag":
        dragged, goal = split_drag(reference.text)
        if goal:
            said_dragged, said_goal = split_drag(predicted.text)
            return min(text_similarity(said_dragged, dragged), text_similarity(said_goal, goal))
    return text_similarity(predicted.text, reference.text)


def ends_agree(predicted: Action, reference: Action) -> bool:
    """Whether a drag ends where the recorded one does; one without an end, and every other kind,
    agrees with anything."""
    return reference.end is None or near(predicted.end, reference.end)


def near(one: Point | None, other: Point | None) -> bool:
    """Whether two points are within POINT_RADIUS; a point that is missing is near nothing."""
    if one is None or other is None:
        return False
    distance_squared = (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2
    return distance_squared <= POINT_RADIUS**2


# ---- stage 1: the whole forecast ----------------------------------------------------------------


def repetitions(forecast: Sequence[Action]) -> list[int]:
    """rep(a_hat_1:t) for each t, 0 or 1: whether this action stood in the forecast before. Any
    cycle consists of such repeats.

    DEPARTURE: the paper leaves rep open. An indicator is bounded, so the true trajectory can stay
    the best forecast even where it repeats an action (two scrolls). It does with lambda_rep <=
    lambda_align / 3 and grounding texts of one word, of which the nearest other text ("Save red"
    for "Save") loses a third of sim. A longer text loses less by a word too many or too few, and
    that may be less than the lambda_rep that it avoids.

    >>> back = Action("back")
    >>> repetitions([back, Action("click", "A"), back, Action("click", "a ")])
    [0, 0, 1, 1]
    """
    repeated = []
    before = set()
    for action in forecast:
        meaning = meaning_of(action)
        repeated.append(int(meaning in before))
        before.add(meaning)
    return repeated


def meaning_of(action: Action) -> tuple:
    """A key that is equal for actions that do the same: grounding texts that differ only in filler
    words or in their order name the same element. From where a drag goes to where is another."""
    if not action.text:
        # Points count where no text says what is meant.
        return action.kind, action.point, action.end
    if action.kind == "drag":
        dragged, goal = split_drag(action.text)
        return action.kind, name_of(dragged), name_of(goal)
    if action.kind in POINTING:
        return action.kind, name_of(action.text)
    return action.kind, folded(action.text)


def name_of(text: str) -> tuple[str, ...]:
    """The words that name an element, in order of the alphabet; a text without any is one."""
    words = sorted(naming_words(text))
    return tuple(words) if words else (folded(text),)


@dataclass
class Reward:
    """What one forecast earned."""

    terms: dict[str, float]  # named parts, and "reward", their sum
    # The sum of these parts at each position of the forecast, discounted; [T + 1], the last one for
    # what stands beyond T.
    step_rewards: list[float]


def trajectory_reward(
    forecast: Sequence[Action],
    reference: Sequence[Action],
    horizon: int,
    gamma: float = 0.9,
    lambda_align: float = 1.0,
    lambda_rep: float = 0.3,
    readable: bool = True,
    states: bool = False,
) -> Reward:
    """Stage 1: R(tau_hat, tau*) = sum_t gamma^(t-1) (lambda_align sim_t - lambda_rep rep_t), paper
    eq. for r_t.

    Terms "align", "repeat", "overrun", and "reward", their sum.
    * too short: what is missing pays nothing;
    * longer than what is left of the reference: each step too many costs lambda_rep, so padding
      cannot pay;
    * unreadable (`readable` is False; `forecast` holds the lines before the first bad one, of an
      answer that was cut off all lines, the last one perhaps half): every position from there on,
      one beyond the horizon included, costs lambda_rep. An empty or wholly unreadable forecast has
      the least possible reward.
    DEPARTURE: the paper does not say what the last two are worth.
    With `states` there is one more term, "state": what each action expects to be seen, aligned as
    the texts of actions are, whether or not its action is right.

    >>> save, done = Action("click", "Save"), Action("done")
    >>> trajectory_reward([save, save], [save, done], horizon=2).terms
    {'align': 1.0, 'repeat': -0.27, 'overrun': 0.0, 'reward': 0.73}
    """
    terms = {"align": 0.0, "repeat": 0.0, "overrun": 0.0}
    if states:
        terms["state"] = 0.0
    step_rewards = []
    forecast = forecast[:horizon]
    repeated = repetitions(forecast)
    for t in range(horizon + 1):  # from 0, where the paper counts from 1
        discount = gamma**t
        align = 0.0
        repeat = 0.0
        overrun = 0.0
        state = 0.0
        written = t < len(forecast)
        due = t < len(reference)
        if written and due:
            align = discount * lambda_align * similarity(forecast[t], reference[t])
            repeat = discount * (-lambda_rep * repeated[t])
        elif written or not readable:
            overrun = discount * -lambda_rep
        terms["align"] += align
        terms["repeat"] += repeat
        terms["overrun"] += overrun
        if states and written and due:
            agreement = text_similarity(forecast[t].expects, reference[t].expects)
            state = discount * lambda_align * agreement
            terms["state"] += state
        step_rewards.append(align + repeat + overrun + state)
    return Reward(terms | {"reward": sum(step_rewards)}, step_rewards)


# ---- stage 2: the first step, as a frozen tool agent carried it out ------------------------------


def grounded_reward(executed: Action | None, reference: Action, boxes: Sequence[Box] = ()) -> float:
    """Stage 2: r^G in {0, 1}. `executed` is the first forecast step as the frozen tool agent
    returned it (None: it refused, failed, or nothing could be read).

    Pointing kinds: 1[point inside a target box]; where no box is recorded, within POINT_RADIUS of
    the recorded point. A drag must also end within POINT_RADIUS of where the recorded one ends.
    DEPARTURE: the paper leaves the other kinds open: their argument must match (typed text,
    direction, app, tool call, answer), and so must the end of a drag and the option of a select."""
    if executed is None or executed.kind != reference.kind:
        return 0.0
    if reference.kind == "select" and not takes_option(executed, reference):
        return 0.0
    if reference.kind not in POINTING:
        return float(same_text(executed.text, reference.text))
    if executed.point is None or not ends_agree(executed, reference):
        return 0.0
    if boxes:
        return float(any(inside(executed.point, box) for box in boxes))
    return float(near(executed.point, reference.point))


def takes_option(executed: Action, reference: Action) -> bool:
    """Of a select; where no option is recorded, any is right."""
    return not reference.text or same_text(executed.text, reference.text)


# ---- GRPO: each forecast against its group -------------------------------------------------------


def group_advantages(
    step_rewards: np.ndarray, credit: str = "trajectory", std_normalise: bool = True
) -> np.ndarray:
    """Advantages of one group: discounted step rewards [G, T + 1] (Reward.step_rewards), in the
    order of writing -> advantages [G, T + 1] for the tokens of each step. `credit` says what they
    are paid for, always compared with their group:
    * "trajectory" (paper eq.): A = (R - mean R) / std R, the same for every token;
    * "step": the tokens of step t get the return from step t on. Written from near to far, the
      rewards before it cannot depend on them: without these the expected gradient is the same and
      its variance smaller. From far to near that holds for the grounded reward, not quite in stage
      1: a line that cannot be read voids all that were written before it, a step too many moves
      them, and a repeat is found there;
    * "own": they get the reward of step t alone. That leaves out two things: what the words of a
      step do to later ones (little: the world does not answer in between), and the noise of all
      later steps.

    All steps of a group are divided by one std, the largest: a std for each would undo gamma. A
    group whose returns are all equal (max - min < 1e-6: a std of floats is never exactly 0) gives
    zeros.

    >>> group_advantages(np.array([[1.0, 0.0], [0.0, 0.0]]))[:, 0].round(3)
    array([ 1., -1.])
    """
    returns = returns_by_step(step_rewards, credit)
    centred = returns - returns.mean(axis=0)
    spread = np.ptp(returns, axis=0).max()
    if spread < 1e-6:
        return np.zeros_like(centred)
    if std_normalise:
        # 1e-4: a group that hardly differs is not blown up to the size of the others.
        return centred / (returns.std(axis=0).max() + 1e-4)
    return centred


def returns_by_step(step_rewards: np.ndarray, credit: str) -> np.ndarray:
    """What the tokens of each step are paid for: rewards [G, T + 1] -> returns, as many."""
    if credit == "own":
        return step_rewards
    from_step_on = np.cumsum(step_rewards[:, ::-1], axis=1)[:, ::-1]
    if credit == "trajectory":
        whole = from_step_on[:, :1]  # the return from the first step on is R
        return np.repeat(whole, step_rewards.shape[1], axis=1)
    return from_step_on


# ---- a look at the numbers -----------------------------------------------------------------------


def main() -> None:
    """Print what honest and cheating forecasts earn."""
    account = Action("click", "Account")
    name = Action("click", "Name")
    save = Action("click", "Save")
    done = Action("done")
    truth = [account, name, Action("type", "amber"), save, done]
    answers = {
        "the truth": truth,
        "only the first step": truth[:1],
        "the wrong second step": [account, Action("click", "City"), *truth[2:]],
        "one element five times": [account] * 5,
        "a cycle": [account, name] * 2,
        "padded beyond the end": [save, done, save, done],
        "everything in one text": [Action("click", "Account Name Save City Phone")] * 5,
        "one letter typed": [account, name, Action("type", "a")],
        "nothing": [],
    }
    print("reference: " + "; ".join(str(action) for action in truth) + "\n")
    print(f"{'forecast':26} {'align':>7} {'repeat':>7} {'overrun':>8} {'reward':>7}")
    for title, forecast in answers.items():
        reference = truth
        if title == "padded beyond the end":
            reference = truth[3:]  # only save and done are left to do
        readable = len(forecast) > 0  # the parser finds nothing to read in an empty answer
        terms = trajectory_reward(forecast, reference, horizon=5, readable=readable).terms
        print(
            f"{title:26} {terms['align']:7.3f} {terms['repeat']:7.3f} {terms['overrun']:8.3f} "
            f"{terms['reward']:7.3f}"
        )
    box = (0.0, 0.0, 0.5, 0.2)
    hit = grounded_reward(Action("click", "Account", (0.2, 0.1)), account, [box])
    beside = grounded_reward(Action("click", "Account", (0.6, 0.1)), account, [box])
    refused = grounded_reward(None, account, [box])
    print(f"\ngrounded: point in the box {hit} | beside it {beside} | refused {refused}")


if __name__ == "__main__":
    main()
