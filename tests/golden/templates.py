"""Writes templates.json: what transformers renders of templates that use its extensions, and Python's strftime.

    python tests/golden/templates.py tests/golden

`templates` are of this project's own; each is rendered over `messages` with transformers' own environment. `dates` gives, for
seconds since 1970 in UTC, what each conversion writes in the C locale.
"""
import datetime
import json
import os
import sys

from transformers.utils.chat_template_utils import render_jinja_template

MESSAGES = [
    {"role": "user", "content": "a.b.c  d e ", "n": 7, "list": [1, "x", None], "map": {"z": {"b": 1.5, "a": [True]}, "é": "ü\n🎉"}},
    {"role": "assistant", "content": "  100% of %s"},
]
TEMPLATES = [
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% set x = 1 %}\n{%- generation -%}\n  {% set x = 2 %}{{ x }}\n{%- endgeneration %}{{ x }}",
    "{{ '%s and %s' % ('a', messages[0].n) }}",
    "{{ '%s' % messages[0].content }}{{ '<%5d|%-5s|%05.1f|%x>' % (messages[0].n, 'ab', 2.25, 255) }}",
    "{{ '%s%%' % messages[0].n | string ~ '%' }}{{ 7 % 4 }}",
    "{{ messages[0].content.rsplit('.', 1) }}{{ messages[0].content.rsplit('.')[-1] }}",
    "{{ messages[0].content.rsplit() }}{{ messages[0].content.rsplit(None, 1) }}{{ messages[0].content.rsplit(maxsplit=1, sep=' ') }}",
    "{{ messages[0].map | tojson(sort_keys=True) }}{{ messages[0].map | tojson(separators=(',', ':')) }}",
    "{{ messages[0].map | tojson(indent=2) }}{{ messages[0].list | tojson(indent=1, separators=[';', '=']) }}",
    "{{ messages[0].map | tojson(ensure_ascii=True, sort_keys=true) }}{{ {} | tojson(indent=4) }}{{ [] | tojson }}",
]
SECONDS = [0, 951_827_696, 1_009_756_800, 1_104_537_600, 1_735_689_599, 1_735_689_600, 4_107_542_400, 1_230_768_000, 1_514_764_800]
CONVERSIONS = ("%a %A %b %B %c %C %d %D %e %f %F %g %G %h %H %I %j %k %l %m %M %n %p %P %r %R %S %t %T %u %U %V %w %W %x %X %y "
               "%Y %z %Z %% %-d %-m %-H %-I %_d %-j %d %b %Y").split(" ")


def main(out):
    rendered = []
    for template in TEMPLATES:
        texts, _ = render_jinja_template([MESSAGES], chat_template=template, add_generation_prompt=False)
        rendered.append({"template": template, "text": texts[0]})
    dates = {}
    for seconds in SECONDS:
        time = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).replace(tzinfo=None)
        dates[str(seconds)] = {conversion: time.strftime(conversion) for conversion in CONVERSIONS}
    with open(os.path.join(out, "templates.json"), "w", encoding="utf-8") as file:
        json.dump({"messages": MESSAGES, "templates": rendered, "dates": dates}, file, ensure_ascii=False, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
