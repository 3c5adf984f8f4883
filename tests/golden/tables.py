"""Prompt files as other programs write them: the same four rows in every form.

Makes, in OUT_DIR/tables: rows.jsonl.gz (Python's gzip), rows.csv and rows.tsv (Python's csv), rows.json, and by pyarrow
rows.snappy.parquet, rows.zstd.parquet, rows.gzip.parquet (dictionary-encoded, two row groups, nulls, lists of structs) and rows.jsonl.zst.

pip install pyarrow==26.0.1
"""

import csv
import gzip
import json
import pathlib
import sys

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = [
    {"question": "1 + 1?", "final": 2.0, "level": 1, "kind": "sums", "turns": None},
    {"question": 'Say "a, b"\nand é.', "final": -0.5, "level": 2, "kind": "texts", "turns": None},
    {"question": "No answer.", "final": None, "level": 3, "kind": "sums", "turns": None},
    {
        "question": None,
        "final": 7.0,
        "level": 4,
        "kind": "talks",
        "turns": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
    },
]

out = pathlib.Path(sys.argv[1]) / "tables"
out.mkdir(exist_ok=True)
lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
with gzip.GzipFile(out / "rows.jsonl.gz", "wb", mtime=0) as file:
    file.write(lines.encode())
(out / "rows.json").write_text(json.dumps(ROWS, indent=1))
for name, delimiter in (("rows.csv", ","), ("rows.tsv", "\t")):
    with open(out / name, "w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        for row in ROWS:
            turns = json.dumps(row["turns"]) if row["turns"] else None
            writer.writerow({**row, "turns": turns})
turn = pa.struct([("role", pa.string()), ("content", pa.string())])
schema = pa.schema(
    [("question", pa.string()), ("final", pa.float64()), ("level", pa.int32()), ("kind", pa.string()), ("turns", pa.list_(turn))]
)
table = pa.Table.from_pylist(ROWS, schema=schema)
for compression in ("snappy", "zstd", "gzip"):
    pq.write_table(table, out / f"rows.{compression}.parquet", compression=compression, row_group_size=3)
with pa.CompressedOutputStream(str(out / "rows.jsonl.zst"), "zstd") as file:
    file.write(lines.encode())
