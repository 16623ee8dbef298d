"""Small AndroidControl folders in the real format, made up: shards, split files, screenshots.

Called by the tests and by the speed bench.
It knows nothing of the reader: what is written here follows the format's own description.
"""

import gzip
import io
import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 1080, 2400  # of every screen, in pixels, whatever the size of its picture


def png(width: int = 8, height: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "navy").save(file, "PNG")
    return file.getvalue()


# ---- Protocol buffers --------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """Seven bits a byte, the low ones first; the top bit of a byte says that more follow."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(*pairs: tuple[int, int | bytes | str]) -> bytes:
    """A protobuf message of (field number, value)."""
    return b"".join(field(number, value) for number, value in pairs)


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def repeated(values: Iterable[int | bytes | str]) -> bytes:
    """A message whose field 1 occurs once for each value."""
    return b"".join(field(1, value) for value in values)


def bytes_list(values: Iterable[bytes | str]) -> bytes:
    """A tf.train.Feature of texts or pictures."""
    return field(1, repeated(values))


def int64_list(values: Iterable[int], packed: bool) -> bytes:
    """A tf.train.Feature of integers, packed into one field or in a field each."""
    if packed:
        joined = b"".join(varint(value) for value in values)
        return field(3, field(1, joined))
    return field(3, repeated(values))


def example(features: dict[str, Sequence], packed: bool = True) -> bytes:
    """A tf.train.Example."""
    entries = []
    for name, values in features.items():
        if isinstance(values[0], int):
            feature = int64_list(values, packed)
        else:
            feature = bytes_list(values)
        entries.append(message((1, name), (2, feature)))
    return field(1, repeated(entries))


def node(left: int, top: int, right: int, bottom: int, visible: bool = True) -> bytes:
    """An accessibility node, with a field before and one between those that a reader looks at."""
    bounds = message((1, left), (2, top), (3, right), (4, bottom))
    return message((1, 7), (2, bounds), (7, "text"), (23, int(visible)))


def forest(*nodes: bytes) -> bytes:
    """An accessibility forest of one window."""
    window = message((3, 1), (11, repeated(nodes)))
    return field(1, window)


# ---- Episodes and folders ----------------------------------------------------------------------

PNG = png()
ACTIONS = [
    {"action_type": "open_app", "app_name": "Notes"},
    {"action_type": "click", "x": 540, "y": 1200},
    {"action_type": "input_text", "text": "new york"},
    {"action_type": "scroll", "direction": "down"},
    {"action_type": "long_press", "x": 0, "y": 2400},
    {"action_type": "navigate_back"},
    {"action_type": "navigate_home"},
    {"action_type": "wait"},
]
# The whole screen, an element around the click, an invisible one in it, one beyond the left edge.
TREE = forest(
    node(0, 0, WIDTH, HEIGHT),
    node(500, 1100, 600, 1300),
    node(520, 1150, 560, 1250, visible=False),
    node(-50, 2300, 200, 2400),
)


def android_record(
    ident: int,
    actions: Sequence[dict | bytes] = ACTIONS,
    screens: Sequence[bytes] | None = None,
    trees: Sequence[bytes] | None = None,
    packed: bool = True,
) -> bytes:
    """One episode as a tf.train.Example: a screen more than actions, as in the real set."""
    count = len(actions) + 1
    if screens is None:
        screens = [PNG] * count
    if trees is None:
        trees = [TREE] * count
    texts = [act if isinstance(act, bytes) else json.dumps(act) for act in actions]
    features = {
        "episode_id": [ident],
        "goal": ["Do it"],
        "screenshots": screens,
        "screenshot_widths": [WIDTH] * count,
        "screenshot_heights": [HEIGHT] * count,
        "accessibility_trees": trees,
        "actions": texts,
        "step_instructions": [f"step {number}" for number in range(len(actions))],
    }
    return example(features, packed)


def write_tfrecords(path: Path, records: Iterable[bytes]) -> None:
    """A gzip TFRecord file. The two checksums of a record are left at zero."""
    with gzip.open(path, "wb", 1) as file:
        for record in records:
            header = struct.pack("<QI", len(record), 0)
            file.write(header + record + b"\0\0\0\0")


def write_android_control(
    root: Path,
    records: Iterable[bytes],
    test: Iterable[int] = (),
    train: Iterable[int] = (1000,),
    subsplits: dict[str, list[int]] | None = None,
) -> Path:
    """A folder of one shard.

    By default all test episodes are of the sub-split app_unseen, and the first one is of IDD too.
    """
    test = list(test)
    splits = {"train": list(train), "validation": [], "test": test}
    if subsplits is None:
        subsplits = {"IDD": test[:1], "app_unseen": test}
    write_tfrecords(root / "android_control-00000-of-00001", records)
    (root / "splits.json").write_text(json.dumps(splits))
    (root / "test_subsplits.json").write_text(json.dumps(subsplits))
    return root
