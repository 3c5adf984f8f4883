"""Writes pre_tokenizers.json: ids of texts under the pre-tokenizers of Phi-4-mini (gpt-4o) and Mistral-Nemo (tekken).

    pip install tokenizers==0.23.3
    python pre_tokenizers.py OUT_DIR

{"tokens", "merges", "texts": [{"text", "gpt-4o": ids, "tekken": ids}]}. The expressions are those of the two models' tokenizer.json. The
vocabulary is byte-level BPE, learned from the texts as whole lines, so that merges cross every boundary that a wrong split would miss.
Its last token is one that no merge leads to: tekken ignores merges for a piece that is a token, gpt-4o does not.
"""
import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

WORD = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
CAPITALS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
# The expression, and whether a piece that is a token becomes that token whatever the merges say.
KINDS = {
    "gpt-4o": (rf"{WORD}{CONTRACTED}|{CAPITALS}{CONTRACTED}|\p{{N}}{{1,3}}|{REST}", False),
    "tekken": (rf"{WORD}|{CAPITALS}|\p{{N}}|{REST}", True),
}
UNREACHED = " zyx"
VOCABULARY = 900

TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    "\r\n\r\n  \n x",
    "\t\t x\t",
    "Hello, world!",
    "hello  world   again    and     again  ",
    "helloWorld HelloWorld HELLOWorld helloWORLD iPhone JSONParser XMLHttpRequest",
    "I'm sure they've said it's what he'd do, we'll see; you're right, don't",
    "DON'T I'LL IT'S WE'RE YOU'VE HE'D I'M",
    "rock 'n' roll, the dogs' bowl, 'tis 'twas o'clock l'été",
    "it’s “curly” — dashes – and… dots",
    "1 12 123 1234 12345 1234567 3.14159 1,000,000 0x1F 10^-6",
    "a1b22c333d4444 v2.0.1 covid19 B2B h2o 4x4",
    "½ ² Ⅷ ① ٣٤٥٦ १२३४५ 一二三 ௧௨௩",
    "naïve café Ångström façade Straße ÄÖÜ ÑANDÚ",
    "cafe\u0301 e\u0301e\u0301 A\u030angstro\u0308m \u0301alone",
    "Tiếng Việt viê\u0323t na\u0306m",
    "Привет, мир! КАК дела? ПриветМир Ёлка",
    "Ελληνικά ΑΘΗΝΑ ἄνθρωπος Σίσυφος",
    "ǅungla ǈubav ǋega ᾈ ᾼ",
    "ʰmodifier ˈstress ªº ʻokina Hawaiʻi",
    "你好,世界。今天天气怎么样?我有3个苹果和12345元。",
    "こんにちは世界 カタカナ ひらがな漢字カナ ー々〆",
    "안녕하세요 세계 대한민국",
    "مرحبا بالعالم مُحَمَّد ٱلْعَرَبِيَّة",
    "שלום עולם שָׁלוֹם",
    "नमस्ते दुनिया क्षत्रिय हिन्दी",
    "สวัสดีชาวโลก ภาษาไทย",
    "தமிழ் வணக்கம் ქართული მხედრული ᲛᲮᲔᲓᲠᲣᲚᲘ",
    "🎉 party 👩‍👩‍👧‍👦 family 🇩🇪 flag 👍🏽 ok",
    "math: ∑ᵢ xᵢ² ≤ √π ∀ε>0 ∂x/∂y",
    "def f(x):\n    if x > 0:\n        return x ** 2  # square\n\n    return None\n",
    "a/b //comment\n/// doc\n/*/\n\n// x\n */\n/",
    "https://example.org/path/?query=1&other=two#fragment/\n",
    '{"key": ["value", 1.5e-3, null, true], "nested": {"a": {}}}',
    "||| *** ___ --- === ``` ~~~ ###\n\n---\n",
    "!!!???...,,,;;;:::\n\n\n!?",
    "zero\u200bwidth and\u00a0no-break\u3000space \u2028line",
    "\ufeffmark \u0000 \u0007 \u001b[0m \ufffd",
    "snake_case_words kebab-case-words SCREAMING_CASE _private __init__",
    "  42\n 42\r\n\t42 $42 -42 +42 #42 @42",
    "$variable @User #HashTag ~Tilde «Zitat» ¿Qué? ¡Olé!",
    f"{UNREACHED}{UNREACHED} zyxw Zyx",
    "The quick brown fox jumps over the lazy dog. " * 3,
]


def learned():
    """A vocabulary and merges that know nothing of the expressions."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False, max_token_length=12)
    trained.train_from_iterator([line for text in TEXTS for line in text.splitlines(keepends=True)], trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = {**model["vocab"], UNREACHED.replace(" ", "Ġ"): len(model["vocab"])}
    return vocabulary, [tuple(merge) for merge in model["merges"]]


def tokenizer(vocabulary, merges, expression, ignores_merges):
    made = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=ignores_merges))
    split = pre_tokenizers.Split(Regex(expression), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return made


def main(out):
    vocabulary, merges = learned()
    made = {name: tokenizer(vocabulary, merges, *kind) for name, kind in KINDS.items()}
    written = {
        "tokens": sorted(vocabulary, key=vocabulary.get),
        "merges": [" ".join(merge) for merge in merges],
        "texts": [{"text": text, **{name: it.encode(text).ids for name, it in made.items()}} for text in TEXTS],
    }
    (Path(out) / "pre_tokenizers.json").write_text(json.dumps(written, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
