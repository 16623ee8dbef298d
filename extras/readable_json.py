"""JSON as a person reads it: an entry a line, but a list of numbers on one line.

Called by what writes results, exams and tables of numbers; any reader of JSON reads it back.
It writes no file: that is extras/run_folder.write.
"""

import json
import re

# A line break cannot stand inside a string of JSON: only lists are met.
NUMBERS_OVER_LINES = re.compile(r"\[\n([-+.\deE,\s]+)\]")


def readable_json(value: object) -> str:
    """
    >>> print(readable_json({"n": 3, "solved": [1, 0, 1]}))
    {
     "n": 3,
     "solved": [1, 0, 1]
    }
    """
    return NUMBERS_OVER_LINES.sub(on_one_line, json.dumps(value, indent=1))


def on_one_line(numbers: re.Match) -> str:
    return f"[{' '.join(numbers[1].split())}]"
