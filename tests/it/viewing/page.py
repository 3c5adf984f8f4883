"""Looks at the page as a reader does: `page.py CHROMIUM live|file URL RECORDS`.

RECORDS holds the records that the page has to show, as JSON lines; a live node adds its own.
"""

import json
import statistics
import sys

from devtools import Browser

FILTER_MILLISECONDS_MAX = 100
TRIES_MAX = 40
# Words that only one record has.
NEEDLE = "needle in the haystack"


def rows(browser):
    return browser.evaluate("[...document.querySelectorAll('#list a')].map((a) => Number(a.dataset.id))")


def count(browser):
    """Episodes that the list says it has found."""
    return int(browser.evaluate("document.getElementById('count').textContent").split(" ")[0].replace(",", ""))


def set_filter(browser, **values):
    """Sets the filter's fields, and waits for the list. Returns the time until it was there (ms)."""
    return browser.evaluate("""(async () => {
      const form = document.getElementById('filter');
      const values = %s;
      const told = new Promise((resolve) => {
        const observer = new MutationObserver(() => { observer.disconnect(); resolve(); });
        observer.observe(document.getElementById('list'), { childList: true });
      });
      for (const field of form.elements) {
        if (!field.name) continue;
        if (field.type === 'checkbox') field.checked = Boolean(values[field.name]);
        else field.value = values[field.name] ?? '';
      }
      const from = performance.now();
      form.text.dispatchEvent(new Event('input', { bubbles: true }));
      await told;
      await new Promise(requestAnimationFrame);
      return performance.now() - from;
    })()""" % json.dumps(values))


def cus(record):
    return [(one["version"], None if one.get("dropped") else one["utility"]) for one in record["critiques"]]


def verdicts(record):
    return [verdict for one in record["critiques"] for refined in one["refinements"] for verdict in refined["verdicts"]]


def texts(record):
    refined = [text for one in record["critiques"] for text in [one["text"], *(r["text"] for r in one["refinements"])]]
    return [record["prompt"]["text"], record["response"] or "", *refined]


def expected(records, task="", version="", cu_min="", cu_max="", invalid=False, text=""):
    """How many records pass, by another reading of what a filter means."""

    def passes(record):
        asks = version != "" or cu_min != "" or cu_max != ""
        some = any((version == "" or one == version) and (cu_min == "" or (cu is not None and cu >= cu_min))
                   and (cu_max == "" or (cu is not None and cu <= cu_max)) for one, cu in cus(record))
        bad = any(isinstance(verdict, dict) for verdict in verdicts(record)) or record["end"] == "dropped" \
            or any(cu is None for _, cu in cus(record))
        return (not task or record["prompt"]["task"] == task) and (some or not asks) and (bad or not invalid) \
            and any(text.lower() in one.lower() for one in texts(record))

    return sum(map(passes, records))


def check_filters(browser, records, is_live):
    task, version = "task-3", 5
    for filter in [{"text": NEEDLE.upper()}, {"task": task}, {"task": task, "version": version},
                   {"task": task, "cu_min": 0.8}, {"task": task, "cu_max": 0.2, "version": version},
                   {"task": task, "invalid": True}, {"text": "marker 77"}]:
        set_filter(browser, **filter)
        while browser.evaluate("!document.getElementById('more').hidden"):
            before = len(rows(browser))
            browser.evaluate("document.getElementById('more').click()")
            browser.until(f"document.querySelectorAll('#list a').length > {before} || document.getElementById('more').hidden")
        found, right = len(rows(browser)), expected(records, **filter)
        assert found == right and right > 0, f"{filter}: {found} rows, expected {right}"
        assert count(browser) == right, f"{filter}: the page says {count(browser)}"
    set_filter(browser)
    assert count(browser) >= len(records) if is_live else count(browser) == len(records)
    assert len(rows(browser)) < 200, "a long list is drawn in parts"


def check_speed(browser):
    for name, filters in {
        "a task": [{"task": f"task-{n}"} for n in range(8)],
        "a rare text": [{"text": f"{NEEDLE[:-n] if n else NEEDLE}"} for n in range(4)] * 2,
        "CU and critic": [{"cu_min": n / 10, "version": n} for n in range(6)],
        "nothing": [{}, {"invalid": True}] * 4,
    }.items():
        times = []
        # Other work on this machine makes a filter slower, never quicker.
        while len(times) < len(filters) or (min(times) >= FILTER_MILLISECONDS_MAX and len(times) < TRIES_MAX):
            times.append(set_filter(browser, **filters[len(times) % len(filters)]))
        print(f"{name}: {min(times):.0f} ms at best, {statistics.median(times):.0f} ms in the middle")
        assert min(times) < FILTER_MILLISECONDS_MAX, f"{name}: {times}"
    set_filter(browser)


def check_tree(browser, hostile):
    """Opens the hostile episode by the keyboard, and sees its texts as texts."""
    browser.evaluate("document.activeElement.blur()")
    browser.key("/")
    browser.until("document.activeElement.name === 'text'")
    browser.write(NEEDLE)
    browser.until("document.querySelectorAll('#list a').length === 1")
    browser.key("Escape")
    browser.key("j")
    browser.until("document.activeElement.dataset.id")
    browser.key("Enter")
    browser.until(f"location.hash === '#episode={hostile['id']}'")
    browser.until("document.querySelector('#tree h1')")
    seen = browser.evaluate("document.getElementById('tree').textContent")
    for part in ["<script>window.hit = 1</script>", "<img src=x onerror=\"window.hit = 2\">", "U+202E", "U+001B"]:
        assert part in seen, f"{part} is not seen as a text"
    assert browser.evaluate("document.querySelectorAll('#main script, #main img, #main iframe').length") == 0
    assert browser.evaluate("window.hit") is None, "a text ran"
    chips = browser.evaluate("[...document.querySelectorAll('.refinement .order')].map((one) => one.textContent)")
    assert chips[:2] == ["winresponse shown first", "tierefinement shown first"], chips
    assert browser.evaluate("document.querySelectorAll('#tree ins').length") > 0, "changes are marked"
    browser.key("d")
    assert browser.evaluate("document.querySelectorAll('#tree ins, #tree del').length") == 0
    browser.key("d")
    browser.key("l")
    shades = browser.evaluate("[...document.querySelectorAll('#tree .critique .text span[title]')].map((one) => one.className)")
    assert "p5" in shades and "p0" in shades and "special" in shades, shades
    assert browser.evaluate("document.querySelector('#tree .scale').textContent").startswith("log-prob 0")
    browser.key("l")
    browser.key("c")
    browser.until("location.hash.startsWith('#compare=')")
    browser.until("document.querySelectorAll('.versus > section').length === 2")
    chosen = browser.evaluate("[...document.querySelectorAll('.versus select')].map((one) => one.value)")
    assert chosen[0] != chosen[1], chosen
    sides = browser.evaluate("[...document.querySelectorAll('.versus > section')].map((one) => one.querySelector('.critique .chip').textContent)")
    assert sides == [f"v{one}" for one in chosen], sides
    browser.key("Escape")
    browser.until("location.hash === '#episodes'")
    browser.key("?")
    assert browser.evaluate("document.getElementById('help-dialog').open")
    browser.key("Escape")
    browser.until("!document.getElementById('help-dialog').open")
    set_filter(browser)
    browser.evaluate("document.activeElement.blur()")
    for key, place in [("j", 0), ("j", 1), ("k", 0)]:
        browser.key(key)
        assert browser.evaluate("[...document.querySelectorAll('#list a')].indexOf(document.activeElement)") == place


def check_access(browser, used_min):
    """Whatever can be used has a name, and colours can be told apart."""
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "link", "searchbox", "textbox", "combobox", "checkbox", "spinbutton", "dialog"}
    used = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert len(used) >= used_min, len(used)
    nameless = [node for node in used if not node.get("name", {}).get("value", "").strip()]
    assert not nameless, nameless
    for scheme in ["light", "dark"]:
        browser.colours(scheme)
        contrasts = browser.evaluate("""(() => {
          const probe = document.createElement('i');
          document.body.append(probe);
          const light = (name) => {
            probe.style.color = `var(--${name})`;
            const linear = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number)
              .map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
          };
          const found = {};
          for (const ink of ['ink', 'dim', 'accent', 'good', 'bad', 'mid']) {
            for (const ground of ['ground', 'panel', 'sunk']) {
              const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
              found[`${ink} on ${ground}`] = (a + 0.05) / (b + 0.05);
            }
          }
          probe.remove();
          return found;
        })()""")
        low = {name: round(ratio, 2) for name, ratio in contrasts.items() if ratio < 4.5}
        assert not low, f"{scheme}: WCAG asks for a contrast of 4.5: {low}"
    browser.colours("light")


def check_colours(browser):
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.colours("light")
    light = browser.evaluate(ground)
    browser.colours("dark")
    dark = browser.evaluate(ground)
    assert light != dark, "the system's colours are followed"
    for expected_ground in [light, dark]:
        browser.evaluate("document.getElementById('theme').click()")
        assert browser.evaluate(ground) == expected_ground
    browser.evaluate("document.getElementById('theme').click()")
    browser.colours("light")


def check_phone(browser, hashes):
    browser.size(390, 844, is_phone=True)
    for hash in hashes:
        browser.evaluate(f"location.hash = '{hash}'")
        browser.until("document.querySelector('#tree h1')" if "=" in hash else "true")
        wide = browser.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{hash}: {wide} pixels wide"
    # A tree takes the place of the list, and leads back to it.
    browser.evaluate(f"location.hash = '{hashes[-1]}'")
    browser.until("document.getElementById('list-pane').offsetParent === null")
    browser.evaluate("document.querySelector('.back').click()")
    browser.until("document.getElementById('list-pane').offsetParent !== null")
    browser.size(1280, 800)


def check_overview(browser):
    browser.evaluate("location.hash = 'overview'")
    browser.until("document.querySelectorAll('#tiles .tile').length >= 6")
    browser.until("document.querySelectorAll('#actors tbody tr').length === 10")
    browser.until("document.querySelector('#charts polyline')")
    browser.until("document.querySelectorAll('#memory .meter').length >= 4")
    browser.until("document.querySelector('#events li')")
    assert browser.evaluate("document.querySelector('#state-text').textContent") != "connecting"


def main():
    program, kind, url, path = sys.argv[1:]
    records = [json.loads(line) for line in open(path)]
    hostile = next(record for record in records if NEEDLE in record["prompt"]["text"])
    is_live = kind == "live"
    with Browser(program) as browser:
        browser.size(1280, 800)
        browser.colours("light")
        browser.open(url)
        if is_live:
            check_overview(browser)
            check_access(browser, 5)
        browser.evaluate("location.hash = 'episodes'")
        # A node reads its records while it serves.
        browser.until("document.querySelectorAll('#list a').length > 10")
        check_filters(browser, records, is_live)
        check_speed(browser)
        check_tree(browser, hostile)
        check_access(browser, 20)
        check_colours(browser)
        check_phone(browser, [*(["overview"] if is_live else []), "episodes", f"episode={hostile['id']}"])
        assert browser.errors == [], browser.errors
        # Script that gets into the page all the same is refused by the policy.
        browser.evaluate("""(() => {
          const script = document.createElement('script');
          script.textContent = 'window.hit = 3';
          document.body.append(script);
        })()""")
        assert browser.evaluate("window.hit") is None, "the policy lets other script run"


if __name__ == "__main__":
    main()
