"""GTA (open-compass/GTA), 229 questions with pictures and tools: its reader and its rules.

Called through catalog.py, as BENCHMARK; the rules by tool_scoring.py.
It scores no subjective answers and no made pictures, for which the officials ask a sentence model.

| rates        | what                                              | source                      |
|--------------|---------------------------------------------------|-----------------------------|
| step by step | InstAcc, ToolAcc, ArgAcc, SummAcc over true turns | gta_bench.py, every_with_gt |
| end to end   | AnsAcc and the F1 of tool choice (P, O, L, C)     | gta_bench.py, every         |
| T3-Agent's   | AnsAcc by substring, ToolAcc, CodeExec            | MAT-Agent; see score_t3     |

Every rate is in per cent, None where there is nothing to divide by.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.common import (
    BadRecord,
    Benchmark,
    Entry,
    Episode,
    Record,
    Report,
    Step,
    find_file,
    get,
    parse_json,
    within,
)
from benchmarks.toolbox import (
    GTA_TOOLS,
    Call,
    Row,
    Run,
    Turn,
    call_text,
    rate,
    tool_record,
)
from envs import Action, one_line

# ---- the reader -------------------------------------------------------------------------------


def read(root: Path, split: str, report: Report) -> Iterator[Entry]:
    """GTA's queries, from dataset.json with image/ beside it.

    toolmeta.json is not needed: each record repeats its part.
    """
    if split != "test":
        raise ValueError(f"gta has one split, test, and no {split!r}")
    file = find_file(root, "dataset.json", "gta_dataset/dataset.json")
    records = parse_json(file.read_bytes(), file.name)
    if not isinstance(records, dict):
        raise ValueError(f"{file}: a dict of records is expected")
    for key, item in records.items():
        where = f"{file.name}: record {key}"
        yield Entry(where, partial(read_record, key, item, file.parent, where))


def read_record(key: str, item: dict, folder: Path, where: str) -> Record:
    """raw: gt_answer (None: a picture is asked for), files {name: path}, tools [names]."""
    files = {}
    for entry in get(item, "files", list):
        name = get(entry, "path")
        files[name] = within(folder, name)
    dialogs = [turn if isinstance(turn, dict) else {} for turn in get(item, "dialogs", list)]
    turns = read_turns(dialogs)
    query = first_question(dialogs)
    gold = item.get("gt_answer", 0)  # None means something: 0 stands for missing
    has_gold = is_gold(gold)
    if not turns or query is None or not has_gold:
        raise BadRecord(
            "dialogs: no turn of user or assistant; or gt_answer: neither whitelist, list nor null"
        )
    tools = [get(tool, "name") for tool in get(item, "tools", list)]
    return tool_record(
        ident=key,
        goal=query,
        picture=next(iter(files.values()), None),
        where=where,
        turns=turns,
        raw={"gt_answer": gold, "files": files, "tools": tools},
    )


def read_turns(dialogs: list[dict]) -> list[Turn]:
    """The assistant's turns, with what the tool said after each."""
    turns = []
    for said, after in zip(dialogs, [*dialogs[1:], {}], strict=True):
        if get(said, "role") != "assistant":
            continue
        if said.get("tool_calls"):
            turns.append(call_turn(said, after))
        else:
            answer = get(said, "content")
            turns.append(Turn(Action("answer", one_line(answer)), raw={"answer": answer}))
    return turns


def call_turn(said: dict, after: dict) -> Turn:
    """A turn's first call: the official scorer looks at no other. raw: "name", "arguments"."""
    call = get(get(said, "tool_calls", list)[0], "function", dict)
    name = get(call, "name")
    arguments = get(call, "arguments", dict)
    seen = str(after.get("content", ""))[:300]
    action = Action("call", call_text(name, arguments))
    return Turn(action, seen, {"name": name, "arguments": arguments})


def first_question(dialogs: list[dict]) -> str | None:
    for turn in dialogs:
        if get(turn, "role") == "user":
            return get(turn, "content")
    return None


def is_gold(gold: object) -> bool:
    """Whether it is an answer as GTA has them; BadRecord for a dict without its lists."""
    if isinstance(gold, dict):
        groups = get(gold, "whitelist", list)
        if gold.get("blacklist"):
            groups = groups + get(gold, "blacklist", list)
        return all(isinstance(group, list) for group in groups)
    return gold is None or isinstance(gold, list)


BENCHMARK = Benchmark(read=read)


# ---- what is right ----------------------------------------------------------------------------


def gta_objective(answer: str | None, truth: dict) -> bool:
    r"""GTA's rule: of each whitelist group one alias stands in the answer, and no blacklisted one.

    Aliases stand between word boundaries (\b) and are escaped: "3.5" does not match "385". One
    that ends in a sign is found only before a letter or digit, "50%" in "50%x" and not in "50% of
    it", and a blacklist [[]] forbids any word: quirks of the official rule, kept. An empty answer
    is wrong.

    >>> gta_objective("It is 7.75.", {"whitelist": [["7.75", "7.8"]], "blacklist": None})
    True
    """
    if not answer:
        return False
    if not all(has_alias(answer, group) for group in truth["whitelist"]):
        return False
    if not truth.get("blacklist"):
        return True
    forbidden = []
    for group in truth["blacklist"]:
        forbidden += group
    return not has_alias(answer, forbidden)


def has_alias(answer: str, aliases: list) -> bool:
    """Whether one of them stands in the answer between word boundaries, in capitals or not."""
    either = "|".join(re.escape(str(alias)) for alias in aliases)
    return re.search(rf"\b(?:{either})\b", str(answer), re.IGNORECASE) is not None


def has_substrings(answer: str | None, whitelist: list[list]) -> bool:
    """T3-Agent's rule: of each group one alias is anywhere in the answer, in capitals or not."""
    if answer is None:
        answer = ""
    return all(has_substring(answer, group) for group in whitelist)


def has_substring(answer: str, aliases: list) -> bool:
    small = answer.lower()
    return any(str(alias).lower() in small for alias in aliases)


def gold_answer(episode: Episode) -> dict | list | None:
    """A dict of whitelist and blacklist (objective), a list (subjective), None (a picture)."""
    return episode.raw["gt_answer"]


def is_objective(episode: Episode) -> bool:
    return isinstance(gold_answer(episode), dict)


def gold_tools(episode: Episode) -> list[str]:
    """The names of the tools that the record calls, in order."""
    return [step.raw["name"] for step in episode.steps if step.action.kind == "call"]


# ---- step by step -----------------------------------------------------------------------------


@dataclass(frozen=True)
class CallScore:
    """What was right of the call at a recorded call."""

    inst: bool  # there was a call, and it had no error
    tool: bool  # it was the record's tool
    arguments: bool  # with the record's arguments, equal as written


def score_call(call: Call | None, step: Step) -> CallScore:
    if call is None:
        return CallScore(inst=False, tool=False, arguments=False)
    same_tool = call.name == step.raw["name"]
    same_arguments = call.arguments == step.raw["arguments"]
    return CallScore(inst=not call.error, tool=same_tool, arguments=same_tool and same_arguments)


def score_step_by_step(episodes: list[Episode], runs: dict[str, Run]) -> dict:
    """InstAcc, ToolAcc, ArgAcc, SummAcc.

    The denominator of InstAcc leaves out the closing turn of image generation while its numerator
    does not: so does the official one.
    """
    calls = []  # of CallScore, one a recorded call
    answered = []  # one a recorded answer: whether an answer was given
    summaries = []  # one a recorded objective answer: whether it is right
    for episode in episodes:
        run = runs.get(episode.id, Run())
        said = iter(run.tool_calls)
        for step in episode.steps:
            if step.action.kind == "call":
                calls.append(score_call(next(said, None), step))
                continue
            answered.append(run.answer is not None)
            if is_objective(episode):
                summaries.append(gta_objective(run.answer, gold_answer(episode)))
    turns = len(calls)
    with_reference = sum(bool(gold_answer(episode)) for episode in episodes)
    right_kind = sum(call.inst for call in calls) + sum(answered)
    return {
        "inst_acc": rate(right_kind, turns + with_reference),
        "tool_acc": rate(sum(call.tool for call in calls), turns),
        "arg_acc": rate(sum(call.arguments for call in calls), turns),
        "summ_acc_objective": rate(sum(summaries), len(summaries)),
        "tool_turns": turns,
    }


# ---- end to end -------------------------------------------------------------------------------

CATEGORIES = ("perception", "operation", "logic", "creativity")


def score_end_to_end(episodes: list[Episode], runs: dict[str, Run]) -> tuple[dict, list[Row]]:
    """AnsAcc over objective answers, and the F1 of tool choice by category."""
    rows = [answer_row(episode, runs.get(episode.id, Run())) for episode in episodes]
    scores = [row.correct for row in rows if row.correct is not None]
    sums = {
        "ans_acc_objective": rate(sum(scores), len(scores)),
        "n_objective": len(scores),
        "n_subjective": sum(isinstance(gold_answer(episode), list) for episode in episodes),
        "n_image": sum(not gold_answer(episode) for episode in episodes),
    }
    return sums | tool_choice(episodes, runs), rows


def answer_row(episode: Episode, run: Run) -> Row:
    if not is_objective(episode):
        return Row(episode.id, None)
    return Row(episode.id, gta_objective(run.answer, gold_answer(episode)))


def tool_choice(episodes: list[Episode], runs: dict[str, Run]) -> dict:
    """The F1 of each category: a hit is a recorded call whose tool was called at some time."""
    gold = Counter()  # category -> calls in the records
    made = Counter()  # calls in the runs
    hits = Counter()
    for episode in episodes:
        called = runs.get(episode.id, Run()).called()
        asked = gold_tools(episode)
        gold.update(categories(asked))
        made.update(categories(called))
        hits.update(categories([name for name in asked if name in called]))
    return {f"f1_{name}": choice_f1(hits[name], made[name], gold[name]) for name in CATEGORIES}


def categories(names: list[str]) -> list[str]:
    """The categories of these tools; those of no GTA tool are left out."""
    return [GTA_TOOLS[name].category for name in names if name in GTA_TOOLS]


def choice_f1(hits: int, made: int, gold: int) -> float | None:
    """1e-5 as in the official script, which says 0 where no record asks for any."""
    if gold == 0:
        return None
    precision = hits / (made + 1e-5)
    recall = hits / gold
    return 100 * 2 * precision * recall / (precision + recall + 1e-5)


# ---- T3-Agent's variant -----------------------------------------------------------------------

# T3-Agent's own tools, and what of GTA's each can stand for (our proposal: no source gives a
# mapping).
T3_TOOLS = {
    "visualizer": {"ImageDescription", "OCR", "RegionAttributeDescription", "MathOCR"},
    "objectlocation": {"TextToBbox", "CountGivenObject"},
    "ask_search_agent": {"GoogleSearch"},
    "image_generator": {"TextToImage"},
    "image_edit": {"ImageStylization", "DrawBox", "AddText"},
    "python": {"Calculator", "Solver", "Plot"},
}


def score_t3(episodes: list[Episode], runs: dict[str, Run]) -> dict:
    """AnsAcc, ToolAcc and CodeExec as T3-Agent reports them.

    AnsAcc: substrings, no blacklist; records without a whitelist are left out.
    DEPARTURE: ToolAcc and CodeExec are defined in no source. ToolAcc: the mean share of a record's
    tools that were called; strict: neither one missing nor one too many. CodeExec: runs whose code
    ran / runs that say so.
    """
    right = []
    shares = []
    strict = []
    ran = []
    for episode in episodes:
        run = runs.get(episode.id, Run())
        if is_objective(episode):
            right.append(has_substrings(run.answer, gold_answer(episode)["whitelist"]))
        gold = set(gold_tools(episode))
        if gold:
            called = [stands_for(name) for name in run.called()]
            share = len(gold & set().union(*called)) / len(gold)
            shares.append(share)
            strict.append(share == 1.0 and all(tools & gold for tools in called))
        if run.code_ok is not None:
            ran.append(run.code_ok)
    return {
        "ans_acc": rate(sum(right), len(right)),
        "ans_acc_over_all": rate(sum(right), len(episodes)),
        "n": len(right),
        "tool_acc": rate(sum(shares), len(shares)),
        "tool_acc_strict": rate(sum(strict), len(strict)),
        "code_exec": rate(sum(ran), len(ran)),
        "n_code": len(ran),
    }


def stands_for(name: str) -> set[str]:
    """GTA's tools that a call can stand for: the one of that name, or what T3-Agent's can do."""
    return {name} | T3_TOOLS.get(name, set())
