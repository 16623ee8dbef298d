"""The toy worlds by their names, as --env and --bench say them.

Called by train.py, eval.py and what plays, warms up or draws a toy world.
It knows no recorded benchmark: those are listed in benchmarks/catalog.py.
"""

from envs import ToyGUI
from extras.toy_tools import ToyTools

WORLDS = {"toy-gui": ToyGUI, "toy-tools": ToyTools}
