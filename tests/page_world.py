"""A small world in the browser's place: pages with two buttons, which test_online.py and
test_miniwob_exam.py play instead of MiniWoB++."""

import random

from PIL import Image

from benchmarks import miniwob_exam
from envs import Action, Observation, find_element

SAVE = Action("click", "Save", (0.25, 0.5))
EXIT = Action("click", "Exit", (0.75, 0.5))


class Page:
    """A page with two buttons: Save, pressed as often as the task needs, earns its reward."""

    splits = ("train", "test")
    task = ""
    rewards = {"save-1": 1.0, "save-2": 1.0, "half": 0.5, "crash": 0.0}
    needed = {"save-1": 1, "save-2": 2, "half": 1, "crash": 1}
    opened: list = []
    played: list = []

    def __init__(self, split: str, scale: int, history: int):
        assert split == "test"
        self.scale = scale
        self.oracle_steps = 0
        self.opened.append(self)

    def reset(self, seed: int):
        self.seed = seed
        self.presses = 0
        self.steps = 0
        self.played.append((self.task, seed))
        return self.observe(), {}

    def observe(self) -> Observation:
        picture = Image.new("RGB", (160 * self.scale, 210 * self.scale))
        return Observation("press Save", lambda: picture, ())

    def visible(self):
        return (("Save", (0.0, 0.0, 0.5, 1.0)), ("Exit", (0.5, 0.0, 1.0, 1.0)))

    def key(self) -> str:
        return f"{self.task}/{self.seed}/{self.steps}"

    def moves(self, rng: random.Random):
        return [SAVE, EXIT]

    def oracle(self, horizon: int, exact: bool = False):
        return [SAVE] * min(horizon, self.needed[self.task] - self.presses)

    def ground(self, action: Action):
        return find_element(action, self.visible(), self.key())

    def step(self, action, said=""):
        self.steps += 1
        self.presses += action == SAVE
        crashed = self.task == "crash"
        over = self.presses == self.needed[self.task]
        raw_reward = self.rewards[self.task] if over else 0.0
        info = {
            "result": "failed" if action is None else "ok",
            "success": over and raw_reward == 1.0,
            "success_browsergym": over and raw_reward > 0,
            "raw_reward": raw_reward,
            "reason": "",
            "crashed": crashed,
        }
        return self.observe(), raw_reward, over or crashed, False, info

    def close(self) -> None:
        self.opened.remove(self)


def play_pages(monkeypatch) -> type[Page]:
    """miniwob_exam.evaluate meets Page in the place of MiniWoB++."""

    def miniwob_world(tasks):
        for task in tasks:
            if task not in Page.needed:
                raise ValueError(f"unknown task {task}")
        return type("OnePage", (Page,), {"task": tasks[0]})

    monkeypatch.setattr(miniwob_exam, "miniwob_world", miniwob_world)
    monkeypatch.setattr(miniwob_exam, "known_tasks", lambda: ("half", "save-1", "save-2"))
    monkeypatch.setattr(miniwob_exam, "find_programs", dict)
    monkeypatch.setattr(miniwob_exam, "version", lambda package: "1.1.0")
    Page.opened.clear()
    Page.played.clear()
    return Page
