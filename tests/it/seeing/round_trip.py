"""Reads dashboards with Grafana's own models and writes them back: a field that Grafana does not know is lost, and is an error.

    round_trip.py FILE...
"""

import json
import re
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


# What Grafana reads and these models leave out: fields of Prometheus' own annotations, and the text of a variable's query.
LEFT_OUT = re.compile(r"\.annotations\.list\[\d+\]\.(step|titleFormat|textFormat|useValueForTime)|"
                      r"\.templating\.list\[\d+\]\.definition")


def lost(given, kept, path):
    """Paths of what `given` has and `kept` has not, or has otherwise."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from lost(value, kept[key], f"{path}.{key}")
            elif value not in (None, "", [], {}) and not LEFT_OUT.fullmatch(f"{path}.{key}"):
                yield f"{path}.{key}: {value!r} is lost"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for index, (one, other) in enumerate(zip(given, kept)):
            yield from lost(one, other, f"{path}[{index}]")
    elif given != kept:
        yield f"{path}: {given!r} became {kept!r}"


register_default_plugins()
wrong = []
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        given = json.load(file)
    kept = json.loads(json.dumps(Dashboard.from_json(given), cls=JSONEncoder))
    wrong += [f"{name}: {what}" for what in lost(given, kept, "")]
    print(f"{name}: {len(given['panels'])} panels")
if wrong:
    sys.exit("\n".join(wrong[:40]))
