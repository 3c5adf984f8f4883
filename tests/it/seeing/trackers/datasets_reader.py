"""Loads files of rows with `datasets` and prints them: for each file its column types and its rows."""

import json
import sys

from datasets import load_dataset

out = []
for path in sys.argv[1:]:
    kind = "parquet" if path.endswith(".parquet") else "json"
    rows = load_dataset(kind, data_files=path, split="train", cache_dir=path + ".cache")
    out.append({"types": {name: str(type) for name, type in rows.features.items()}, "rows": list(rows)})
print(json.dumps(out))
