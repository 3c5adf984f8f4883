
// What changed from one text to another, word by word.

/** More cells than this would take too long to fill; then the texts are shown as they are. */
const CELLS_MAX = 4e6;

const words = (text) => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];

/** Runs of words as [kind, text]: kind is '=', '-' (only in `before`) or '+' (only in `after`); null if the texts are too long. */
function wordDiff(before, after) {
  const [a, b] = [words(before), words(after)];
  let [start, endA, endB] = [0, a.length, b.length];
  while (start < endA && start < endB && a[start] === b[start]) start += 1;
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) [endA, endB] = [endA - 1, endB - 1];
  const [rows, columns] = [endA - start, endB - start];
  if ((rows + 1) * (columns + 1) > CELLS_MAX) return null;
  // Lengths of the longest common subsequences of what is left, from each pair of places to the ends.
  const wide = columns + 1;
  const longest = new Uint16Array((rows + 1) * wide);
  for (let i = rows - 1; i >= 0; i -= 1) {
    for (let j = columns - 1; j >= 0; j -= 1) {
      longest[i * wide + j] = a[start + i] === b[start + j]
        ? longest[(i + 1) * wide + j + 1] + 1
        : Math.max(longest[(i + 1) * wide + j], longest[i * wide + j + 1]);
    }
  }
  const runs = [];
  const say = (kind, text) => {
    if (runs.length && runs[runs.length - 1][0] === kind) runs[runs.length - 1][1] += text;
    else if (text) runs.push([kind, text]);
  };
  say('=', a.slice(0, start).join(''));
  let [i, j] = [0, 0];
  while (i < rows || j < columns) {
    if (i < rows && j < columns && a[start + i] === b[start + j]) {
      say('=', a[start + i]);
      [i, j] = [i + 1, j + 1];
    } else if (j >= columns || (i < rows && longest[(i + 1) * wide + j] >= longest[i * wide + j + 1])) {
      say('-', a[start + i]);
      i += 1;
    } else {
      say('+', b[start + j]);
      j += 1;
    }
  }
  say('=', a.slice(endA).join(''));
  return joined(runs);
}

/** The same runs; changes with nothing but white space between them are one. */
function joined(runs) {
  const result = [];
  let change = { '-': '', '+': '' };
  const end = () => {
    for (const kind of ['-', '+']) if (change[kind] !== '') result.push([kind, change[kind]]);
    change = { '-': '', '+': '' };
  };
  runs.forEach(([kind, text], index) => {
    const isBetween = index > 0 && index + 1 < runs.length && /^\s+$/.test(text);
    if (kind !== '=') change[kind] += text;
    else if (isBetween && change['-'] && change['+']) [change['-'], change['+']] = [change['-'] + text, change['+'] + text];
    else {
      end();
      result.push([kind, text]);
    }
  });
  end();
  return result;
}

/** `after` with what is not in `before` marked, and what is missing. */
function diffBlock(before, after) {
  const runs = wordDiff(before, after);
  if (runs === null) return textBlock(after);
  const tags = { '-': 'del', '+': 'ins' };
  return el('div', { class: 'text', dir: 'auto' },
    runs.map(([kind, text]) => (kind === '=' ? shown(text) : el(tags[kind], {}, shown(text)))));
}
