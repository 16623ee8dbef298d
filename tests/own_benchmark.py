"""A benchmark of your own, whole: a JSON line an episode, screenshots beside the file.

{"id": "7", "goal": "Order tea", "steps": [{"screenshot": "a.png",
 "action": {"kind": "click", "text": "Tea", "point": [0.5, 0.2]}}]}
"""

from functools import partial

from benchmarks import common


def read(root, split, report):
    with common.find_file(root, f"{split}.jsonl").open("rb") as file:
        for number, line in enumerate(file, 1):
            yield common.Entry(f"{split}.jsonl: line {number}", partial(read_record, root, line))


def read_record(root, line):
    record = common.parse_json(line, "line")
    steps = common.get(record, "steps", list)
    actions = [common.parse_action(step) for step in steps]

    def read_step(index):
        picture = common.within(root, common.get(steps[index], "screenshot"))
        screenshot = partial(common.read_image, picture, picture.name)
        return [common.Step(screenshot, actions[index], raw={"index": index})]

    texts = [str(action) for action in actions]
    goal = common.get(record, "goal")
    return common.Record(common.get(record, "id"), goal, texts, read_step)


def same_words(action, step):
    if action is None or action.kind != step.action.kind:
        return common.StepScore(type_match=False, correct=False)
    return common.StepScore(type_match=True, correct=action.text == step.action.text)


BENCHMARK = common.Benchmark(read, {"same-words": common.Protocol(same_words)})
