"""JSON as a person reads it: an entry a line, but a list of numbers on one line.

Called by what writes results, exams and tables of numbers; any reader of JSON reads it back.
It writes no file: that is extras/run_folder.write.
"""

import json
import re

# Numbers between brackets over several lines. In a string of JSON a line break is written as \n, so
# that only lists are met.
NUMBERS_OVER_LINES = re.compile(r"\[\n([-+.\deE,\s]+)\]")


def readable_json(value: object) -> str:
    """The text of a value that json.dumps takes, with an indent of one.

    >>> print(readable_json({"n": 3, "solved": [1, 0, 1]}))
    {
     "n": 3,
     "solved": [1, 0, 1]
    }
    """
    return NUMBERS_OVER_LINES.sub(on_one_line, json.dumps(value, indent=1))


def on_one_line(numbers: re.Match) -> str:
    return f"[{' '.join(numbers[1].split())}]"
