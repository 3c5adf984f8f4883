"""Prints the one offline run below a folder as wandb stored it: {"figures": {name: [[step, value], ...]}, "config": {...}}.

The file is LevelDB's log of wandb's own protobuf messages, after a head of seven bytes.
"""

import glob
import json
import os
import struct
import sys

from wandb.proto import wandb_internal_pb2

BLOCK = 32768
FULL, FIRST, LAST = 1, 2, 4


def records(data):
    assert data[:4] == b":W&B", data[:8]
    at, whole = 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        part = data[at + 7 : at + 7 + length]
        at += 7 + length
        whole = part if kind in (FULL, FIRST) else whole + part
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record


(path,) = glob.glob(os.path.join(sys.argv[1], "wandb", "offline-run-*", "*.wandb"))
figures, config = {}, {}
with open(path, "rb") as file:
    for record in records(file.read()):
        if record.HasField("run"):
            config.update({item.key: json.loads(item.value_json) for item in record.run.config.update})
        if record.HasField("history"):
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                if not name.startswith("_"):
                    figures.setdefault(name, []).append([record.history.step.num, value])
print(json.dumps({"figures": figures, "config": config}))
