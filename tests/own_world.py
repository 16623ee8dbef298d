"""A world of your own, whole: a lamp with a switch, behind the interface that all worlds have.

In the place of Lamp stands what you want to play: a browser, a phone, a game.
"""

from PIL import Image

from envs import TERMINAL, Observation, find_element

SIZE = (200, 100)  # px
SWITCH = (0.5, 0.0, 1.0, 1.0)  # left, top, right, bottom in 0..1


class Lamp:
    def __init__(self, lit):
        self.lit = lit

    def tap(self, x, y):
        if x >= 100:
            self.lit = not self.lit

    def picture(self):
        return Image.new("RGB", SIZE, "yellow" if self.lit else "black")


def native(action):
    """Where to tap, in px; None for what a lamp cannot do."""
    if action.kind != "click" or action.point is None:
        return None
    width, height = SIZE
    x, y = action.point
    return min(width - 1, int(x * width)), min(height - 1, int(y * height))


class LampWorld:
    splits = ("test",)
    oracle_steps = 2
    max_steps = 5

    def __init__(self, split="test", scale=1, history=4):
        self.history = history

    def reset(self, seed):
        self.lamp = Lamp(lit=seed % 2 == 0)
        self.wanted = not self.lamp.lit
        self.past = []
        return self.observe(), {}

    def observe(self):
        picture = self.lamp.picture()  # as it is now, whenever it will be looked at
        past = self.past[max(0, len(self.past) - self.history) :]
        wish = "on" if self.wanted else "off"
        return Observation(f"switch the lamp {wish}", lambda: picture, tuple(past))

    def step(self, action, said=""):
        result = "failed"  # the tool agent found nothing, or nothing could be read
        if action is not None:
            result = self.carry_out(action)
        self.past.append(f"{said} failed" if result == "failed" else said)
        terminated = action is not None and action.kind in TERMINAL
        success = terminated and self.lamp.lit == self.wanted
        truncated = not terminated and len(self.past) >= self.max_steps
        info = {"result": result, "success": success}
        return self.observe(), float(success), terminated, truncated, info

    def carry_out(self, action):
        if action.kind in TERMINAL:
            return "ok"
        place = native(action)
        if place is None:
            return "impossible"
        self.lamp.tap(*place)
        return "ok"

    def visible(self):
        return (("Switch", SWITCH),)  # for the tool agent by labels; () where there are none

    def ground(self, action):
        return find_element(action, self.visible(), self.key(), aliases={})  # exact labels only

    def key(self):
        return f"{self.lamp.lit}/{len(self.past)}"

    def oracle(self, horizon, exact=False):
        return []  # a list of actions, where you know what is right

    def close(self):
        pass
