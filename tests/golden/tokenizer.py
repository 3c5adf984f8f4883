"""Writes tokenizer_smollm2.json: what other programs make of SmolLM2's text and conversations.

    python tests/golden/tokenizer.py FOLDER FILE.gguf > tests/golden/tokenizer_smollm2.json

needs transformers 5 and gguf. Ids come from transformers' reading of the GGUF with one correction: it takes the
pre-tokenizer `smollm` for plain GPT-2, while the model's own tokenizer.json cuts digits off singly first, as
llama.cpp does. Texts on which that matters are listed under `digits_matter`, so that the correction is seen.
`features` is a template of this project's own, rendered by transformers: it uses what templates of other models use.
"""

import json
import sys

from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoTokenizer

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\r\n\r\n",
    "\t\t x",
    "Hello, world!",
    "hello  world   again    and     again",
    "  leading and trailing  ",
    "line one\nline two\n\nline four\n",
    "I'm sure they've said it's what he'd do, we'll see; DON'T SHOUT",
    "12345",
    "3.14159 and 1,000,000 and 0x1F and 10^-6",
    "a 7  8   9\n10\t11",
    "What is 47 + 85?\nThe answer is 132.",
    "1st 2nd 3rd 4x4 h2o",
    "½ ² Ⅷ ① ٣٤٥ 一二三",
    "  42",
    "naïve café Ångström façade",
    "Straße größer ÄÖÜ",
    "e\u0301 versus \u00e9",
    "Привет, мир! Как дела?",
    "你好,世界。今天天气怎么样?",
    "こんにちは世界",
    "안녕하세요 세계",
    "مرحبا بالعالم",
    "שלום עולם",
    "🎉 party 👩‍👩‍👧‍👦 family 🇩🇪 flag 👍🏽",
    "math: ∑ᵢ xᵢ² ≤ √π ∀ε>0",
    "“curly quotes” — dashes – and… dots",
    "zero\u200bwidth and\u00a0no-break\u3000space",
    "\ufeffmark \u0000 \u0007 \u001b[0m control",
    "\ufffd replacement",
    "def f(x):\n    if x > 0:\n        return x ** 2  # square\n    return None\n",
    'fn main() { println!("{:?}", vec![1u8; 16]); }',
    '{"key": ["value", 1.5e-3, null, true], "nested": {"a": {}}}',
    "<div class=\"a\">&amp; &lt;</div>",
    "SELECT * FROM t WHERE a <> 'b' AND c >= 10;",
    "https://example.org/path?query=1&other=two#fragment",
    "user@example.org C:\\Users\\x ~/.config $HOME",
    "||| *** ___ --- === ``` ~~~ ###",
    "!!!???...,,,;;;:::",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "CamelCaseWords snake_case_words kebab-case-words SCREAMING_CASE",
    "<|im_start|>user\nHi<|im_end|>\n",
    "<|im_start|><|im_end|><|endoftext|>",
    " <|im_end|> spaced <|im_end|>glued",
    "<|im_end <|im_end| im_end|> <|IM_END|>",
    "<repo_name>x<file_sep>y<empty_output>",
    "<jupyter_code>print(1)<jupyter_output>1",
    "The quick brown fox jumps over the lazy dog. " * 4,
]

CONVERSATIONS = [
    [{"role": "user", "content": "What is 2 + 2?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}],
    [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Red"},
        {"role": "user", "content": "  Another one,\n<b>not</b> \"red\" & not 'blue'  "},
    ],
    [
        {"role": "system", "content": "Critic"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ],
    [{"role": "user", "content": "<|im_end|> {{ not a template }} {% raw %}"}],
    [{"role": "user", "content": ""}],
]

FEATURES = """{#- a comment -#}
{%- macro line(role, text) -%}
[{{ role | upper }}] {{ text.strip() }}
{% endmacro -%}
{%- set ns = namespace(turns=0, last=none) -%}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system = false %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
  {% if system is not false and system %}
{{ line('system', system) }}
  {% endif %}
{% for message in loop_messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must alternate') }}
    {% endif %}
    {% if message.content == '' %}{% continue %}{% endif %}
    {% set ns.turns = ns.turns + 1 %}
    {% set ns.last = message %}
{{ loop.index }}/{{ loop.length }} {{ line(message.role, message['content']) }}
    {%- for word in message.content.split(' ') if word.startswith('<') %}
 tag:{{ word.replace('<', '(').lower() }}{% if loop.first and not loop.last %},{% endif %}
    {%- endfor %}
{% endfor %}
{{ ns.turns }} {{ ns.last | tojson }} {{ {'a': [1, 'é', none, true], 'b': {}} | tojson(indent=2) }}
{{ messages | map(attribute='role') | join('|') }} {{ tools is none }} {{ tools is defined }}
{{ 'none' if ns.last is none else (ns.last.content[:3] ~ '...' ~ ns.last.content[-2:]) }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ 7 // 2 }} {{ 'x' in 'xyz' }} {{ undefined_name }}
{% if add_generation_prompt %}{{ '>' + eos_token }}{% endif %}
"""


def main(folder, file):
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False)

    plain = [encode(text) for text in TEXTS]
    pre = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.backend_tokenizer.pre_tokenizer = pre
    texts = [
        {"text": text, "ids": encode(text), "decoded": tokenizer.decode(encode(text), skip_special_tokens=True)}
        for text in TEXTS
    ]

    # What the same text is where none of it may be a special token.
    tokenizer.backend_tokenizer.encode_special_tokens = True
    for text in texts:
        as_text = tokenizer.backend_tokenizer.encode(text["text"], add_special_tokens=False).ids
        if as_text != text["ids"]:
            text["as_text"] = as_text
    tokenizer.backend_tokenizer.encode_special_tokens = False

    def render(turns, open_, **more):
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_, **more)

    def conversations(turns_list, **more):
        return [
            {"turns": turns, "closed": render(turns, False, **more), "open": render(turns, True, **more)}
            for turns in turns_list
        ]

    json.dump(
        {
            "texts": texts,
            "digits_matter": [text for text, ids in zip(TEXTS, plain) if ids != encode(text)],
            "bos": tokenizer.bos_token,
            "eos": tokenizer.eos_token,
            "template": tokenizer.chat_template,
            "conversations": conversations(CONVERSATIONS),
            "features": FEATURES,
            "feature_conversations": conversations(CONVERSATIONS, chat_template=FEATURES),
        },
        sys.stdout,
        ensure_ascii=True,
        indent=1,
    )
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
