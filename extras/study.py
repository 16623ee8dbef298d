"""When does looking ahead pay? A study for each road to a gain, with the road's own controls.

    python -m extras.study map          # a plan as a scratch pad, by how far one has to look
    python -m extras.study memory       # a plan that is carried along, by how much is to remember
    python -m extras.study teaching     # a plan as supervision: warm starts held against each other
    python -m extras.study forms        # near to far, far to near, thought, carried, chosen; on dev
    python -m extras.study map --quick  # the first one in small

A command, called by nobody. Its arms stand in extras/study_arms.py; extras/ablation.py runs them,
extras/dials.py counts, extras/dials_shown.py draws: nothing of that is done here. A stopped study
goes on with the same command. What the runs so far say is written after each of them:

    OUTPUT_DIR/STUDY/       the runs, laid out as in extras/ablation.py
    OUTPUT_DIR/warmup/      the warm starts, which all studies share
    OUTPUT_DIR/STUDY.json   all numbers, over the seeds and task by task
    OUTPUT_DIR/STUDY.txt    the same as tables
    OUTPUT_DIR/dials.json   success of each seed by what the world demands; dials.png the gains

STUDY is map, memory, teaching or forms. With --split dev the numbers and tables are called
map-dev.json and map-dev.txt; the runs are the same. Once a whole study is finished, its STUDY.json
and the dials are written into docs/ too.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from envs import die
from extras.ablation import (
    ROOT,
    Settings,
    check_counts,
    choose_arms,
    names_of,
    read_json,
    refuse_taken,
    run_all,
    runs_or_die,
)
from extras.dials import dials, study_record
from extras.dials_shown import draw_dials, study_table
from extras.readable_json import readable_json
from extras.run_folder import memory_or_die, write
from extras.study_arms import STUDIES, Study
from extras.worlds import find_world
from train import parse_config

DOCS = Path("docs")
ABLATION = ROOT / "docs" / "ablation.json"  # looking ahead gave nothing there: drawn too
QUICK_LIMIT = 400  # tasks of a split, with --quick


@memory_or_die()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.study not in STUDIES:
        die(f"study {args.study}: choose one of {', '.join(STUDIES)}")
    study = STUDIES[args.study]
    arms = choose_arms(args, study.arms, study.quick_arms)
    settings = make_settings(args, study)
    folder = settings.root.parent
    name = args.study
    split = study.split
    if args.split:
        name = f"{args.study}-{args.split}"
        split = args.split
    record = None
    with runs_or_die():
        for exams in run_all(arms, settings, beside=study.arms):
            if not exams:
                continue  # the exams of earlier calls come first, and there are none
            record = study_record(study, exams, split, command_of(args))
            write_record(record, name, folder)
            write(folder / f"{name}.txt", study_table(args.study, record))
        if is_whole(args, study):
            write_record(record, name, DOCS)
        print(study_table(args.study, record))
        print(f"numbers, tables and picture: {folder}; all numbers: {folder / name}.json")


def write_record(record: dict, name: str, folder: Path) -> None:
    """Write NAME.json, and the dials of all studies whose records stand in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{name}.json", readable_json(record))
    records = {}
    for study in STUDIES:
        file = folder / f"{study}.json"
        if file.exists():
            records[study] = read_json(file)
    write(folder / "dials.json", readable_json(dials(records)))
    draw_dials(records, read_json(ABLATION), folder / "dials.png")


# ---- command line --------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m extras.study",
        allow_abbrev=False,  # --seed is no short form of --seeds
        description="Train and compare arms on the question when looking ahead pays; the whole "
        "studies make docs/dials.json and docs/dials.png.",
    )
    what = parser.add_argument_group("what is compared")
    what.add_argument("study", help=f"one of {', '.join(STUDIES)}")
    what.add_argument(
        "--arms",
        default="",
        help="run these only, joined by commas, and tell of them and of those that were run "
        "before; default: all of the study",
    )
    what.add_argument(
        "--seeds", type=int, help="seeds 0 .. seeds-1, of everything; default 5 (1 with --quick)"
    )
    what.add_argument(
        "--flags",
        default="",
        help='more flags of train.py for every arm, such as --flags="--stage1_updates 100"; what '
        "arms set themselves is refused, but for how long they train: there their own counts",
    )
    what.add_argument(
        "--split",
        default="",
        help="play this split only, dev to choose settings; default: those of each arm",
    )
    what.add_argument(
        "--limit", type=int, help="tasks of each split; default: as many as the study needs"
    )
    what.add_argument(
        "--quick",
        action="store_true",
        help="the arms that say most, fewer seeds, updates and tasks, in a folder of their own",
    )
    how = parser.add_argument_group("how it is run")
    how.add_argument("--jobs", type=int, default=2, help="runs side by side, sharing the cores")
    how.add_argument(
        "--output_dir", default="runs/study", help="where runs, records and tables are kept"
    )
    args = parser.parse_args(argv)
    if args.seeds is None:
        args.seeds = 1 if args.quick else 5
    return args


def command_of(args: argparse.Namespace) -> str:
    """The command, without what changes no result: where the runs are kept.

    How many run side by side stays, for they share the cores, and the number of threads changes how
    sums are rounded.
    """
    words = ["python", "-m", "extras.study", args.study]
    if args.quick:
        words.append("--quick")
    for name in ("arms", "seeds", "flags", "split", "limit", "jobs"):
        value = getattr(args, name)
        if name == "flags" and value:
            words.append(f"--flags={value}")  # its value begins with a dash
        elif value:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def make_settings(args: argparse.Namespace, study: Study) -> Settings:
    """The settings of the command line; what cannot work ends with one line and exit code 2."""
    check_counts(args)
    limit = tasks_asked(args, study)
    own = args.flags.split()
    refuse_flags(own, study)
    quick = study.quick_flags if args.quick else ""
    flags = [*study.flags.split(), *quick.split(), *own]
    config = parse_config(flags)
    check_split(args.split, study, flags)
    folder = Path(f"{args.output_dir}-quick" if args.quick else args.output_dir)
    return Settings(
        root=folder / args.study,
        warmup_dir=folder / "warmup",
        seeds=args.seeds,
        jobs=args.jobs,
        limit=limit,
        split=args.split,
        flags=flags,
        stage1_updates=config.stage1_updates,
        stage2_updates=config.stage2_updates,
        arms=study.arms,
        limits={split: min(n, limit) for split, n in study.limits.items()},
    )


def tasks_asked(args: argparse.Namespace, study: Study) -> int:
    """Of each split; of some a study plays fewer (Study.limits)."""
    if args.limit is not None:
        return args.limit
    if args.quick:
        return min(study.limit, QUICK_LIMIT)
    return study.limit


# How long arms train. One that sets them itself keeps its own, and means the same as before.
BUDGETS = {"--stage1_updates", "--stage2_updates", "--warmup_steps"}


def refuse_flags(flags: Sequence[str], study: Study) -> None:
    """A flag that arms set themselves: it would do nothing to these, for an arm has the last word,
    and change what the names of the others mean ("T = 5", "near")."""
    names = names_of(flags)
    refuse_taken(names)
    set_by_arms = set()
    for arm in study.arms.values():
        set_by_arms |= names_of(arm.flags.split())
    for name in sorted(names - BUDGETS):
        if name in set_by_arms:
            die(f"--flags: {name} is what arms of this study set themselves")


def check_split(split: str, study: Study, flags: Sequence[str]) -> None:
    """Every arm has to play it, and their worlds have not all the same splits."""
    if not split:
        return
    for arm in study.arms.values():
        own = arm.flags.format(all=1).split()  # a number of updates: any will do
        config = parse_config([*flags, *own])
        splits = find_world(config.env).splits
        if split not in splits:
            die(f"--split {split}: {config.env} has not got it; choose one of {', '.join(splits)}")


def is_whole(args: argparse.Namespace, study: Study) -> bool:
    """Whether all of the study is done as it is meant: then its record goes into docs/."""
    if args.quick or args.arms or args.flags or args.split:
        return False
    return args.seeds >= 5 and tasks_asked(args, study) >= study.limit


if __name__ == "__main__":
    main()
