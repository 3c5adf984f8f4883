
// One episode's tree, and two critics on the same prompt.

/** How a reader wants to see texts; lasts as long as the page. */
const looks = { logProbs: false, diff: true };

/** Where the shades of a token's log-probability begin (nats). */
const SHADES = [-0.1, -0.5, -1, -2, -4];
const shade = (logProb) => SHADES.filter((least) => logProb < least).length;

const verdictName = (verdict) => (isInvalid(verdict) ? 'invalid' : verdict);

function verdictChip(verdict) {
  const name = verdictName(verdict);
  const why = isInvalid(verdict) ? `: ${String(verdict.invalid).replaceAll('_', ' ')}` : '';
  return el('span', { class: `chip ${name}` }, name + why);
}

/** The verdicts on a refinement; both orders by name where a judge was asked in both. */
function verdictChips(verdicts) {
  if (!verdicts.length) return el('span', { class: 'order' }, 'not judged');
  if (verdicts.length === 1) return verdictChip(verdicts[0]);
  const orders = ['response shown first', 'refinement shown first'];
  return verdicts.map((verdict, index) => el('span', { class: 'order' }, verdictChip(verdict), orders[index] ?? ''));
}

/** A critique token by token, each shaded by its log-probability. */
function tokenBlock({ text, tokens, log_probs: logProbs, tokens_left_out: leftOut }) {
  let written = 0;
  const token = (piece, index) => {
    const isSpecial = !text.startsWith(piece, written);
    if (!isSpecial) written += piece.length;
    const kind = isSpecial ? 'special' : `p${shade(logProbs[index])}`;
    return el('span', { class: kind, title: `${JSON.stringify(piece)}: ${logProbs[index].toFixed(3)} nats` }, shown(piece));
  };
  return el('div', { class: 'text', dir: 'auto' }, tokens.map(token),
    leftOut ? el('span', { class: 'special' }, ` ${leftOut} more tokens`) : null);
}

const scale = () => el('span', { class: 'scale', role: 'img', 'aria-label': 'log-probability of a token: unshaded near 0, darkest below -4 nats' },
  'log-prob 0', [0, 1, 2, 3, 4, 5].map((step) => el('i', { class: `p${step}` })), '< -4 nats');

function critiqueBlock(critique, index, response) {
  const count = critique.tokens.length + (critique.tokens_left_out ?? 0);
  const mean = critique.log_probs.reduce((a, b) => a + b, 0) / Math.max(1, critique.log_probs.length);
  const facts = [critique.log_probs.length > 0 && `${count} tokens, mean log-prob ${mean.toFixed(2)}`,
    critique.finish === 'length' && 'cut at the limit'].filter(Boolean).join(', ');
  const refinement = ({ text, verdicts }, number_) => el('div', { class: 'refinement' },
    el('div', { class: 'title' }, el('h4', {}, critique.refinements.length > 1 ? `Refinement ${number_ + 1}` : 'Refinement'), verdictChips(verdicts)),
    looks.diff && response !== null ? diffBlock(response, text) : textBlock(text));
  return el('section', { class: 'critique', 'aria-label': `Critique ${index + 1}` },
    el('div', { class: 'title' }, el('h3', {}, `Critique ${index + 1}`),
      el('span', {}, 'CU ', score(critique.utility)),
      el('span', { class: 'chip', title: 'the critic that wrote it' }, `v${critique.version}`),
      critique.dropped ? el('span', { class: 'chip dropped' }, `dropped: ${critique.dropped.replaceAll('_', ' ')}`) : null,
      el('span', {}, facts)),
    looks.logProbs && critique.tokens.length ? tokenBlock(critique) : textBlock(critique.text),
    critique.refinements.map(refinement));
}

const said = (title, ...content) => el('section', { class: 'said' }, el('h2', {}, title), ...content);

const endNames = { kept: 'kept', zero_variance: 'zero variance', dropped: 'dropped' };

const endChip = ({ end, why }) => el('span', { class: `chip ${end}` }, endNames[end] + (why ? `: ${why.replaceAll('_', ' ')}` : ''));

/** Buttons that change how texts look; `again` draws them anew. */
function lookTools(again) {
  const toggle = (key, name) => el('button', { type: 'button', 'aria-pressed': String(looks[key]),
    onclick: () => { looks[key] = !looks[key]; again(); } }, name);
  return [toggle('diff', 'Mark changes'), toggle('logProbs', 'Log-probs'), looks.logProbs ? scale() : null];
}

/** The tree of `record` in `place`. */
function showTree(place, record, { compare, back, again }) {
  const { prompt, response, critiques } = record;
  place.classList.remove('wide');
  const link = el('button', { type: 'button', onclick: async () => {
    const url = `${location.href.split('#')[0]}#episode=${record.id}`;
    await navigator.clipboard?.writeText(url).then(() => { link.textContent = 'Copied'; }, () => { link.textContent = url; });
  } }, 'Copy link');
  place.replaceChildren(
    el('header', {},
      el('div', { class: 'line' }, el('button', { type: 'button', class: 'back', onclick: back }, 'Back'),
        el('h1', {}, `Episode ${record.id}`), endChip(record)),
      el('p', { class: 'line' }, el('span', {}, shown(prompt.task), ', prompt ', el('code', {}, shown(prompt.id))),
        el('time', { datetime: new Date(record.time).toISOString() }, dateTime(record.time)),
        el('span', {}, `took ${span(record.seconds)}`)),
      el('div', { class: 'tools' }, lookTools(again), el('span', { class: 'spring' }),
        el('button', { type: 'button', onclick: compare }, 'Compare critics'), link)),
    said('Prompt', textBlock(prompt.text),
      prompt.answer ? el('p', { class: 'line' }, el('span', {}, 'Answer ', el('b', {}, shown(prompt.answer)))) : null),
    said('Response', response === null ? el('p', { class: 'empty' }, 'The generator wrote none.') : textBlock(response)),
    critiques.length > 1 ? said('Critique utility of each critique', jumps(place, critiques)) : '',
    ...critiques.map((critique, index) => critiqueBlock(critique, index, response)));
}

/** A button for each critique, which leads to it. */
function jumps(place, critiques) {
  const jump = ({ utility }, index) => el('button', { type: 'button', class: scoreClass(utility), 'aria-label': `Critique ${index + 1}: CU ${cuText(utility)}`,
    onclick: () => place.querySelectorAll('.critique')[index].scrollIntoView({ block: 'start' }) }, cuText(utility));
  return el('div', { class: 'jumps' }, critiques.map(jump));
}

/** Two critics on one prompt, side by side: `records` are its episodes, the newest first. */
function showVersus(place, records, chosen, { open, back, again }) {
  const versions = [...new Set(records.flatMap(({ critiques }) => critiques.map(({ version }) => version)))].sort((a, b) => a - b);
  const picked = [chosen[0] ?? versions[0], chosen[1] ?? versions[versions.length - 1]];
  const side = (index) => {
    const version = picked[index];
    const record = records.find(({ critiques }) => critiques.some((critique) => critique.version === version));
    const choose = el('select', { 'aria-label': `Critic on the ${index ? 'right' : 'left'}`, onchange: (event) => {
      const next = [...picked];
      next[index] = Number(event.target.value);
      again(next);
    } }, versions.map((one) => el('option', { value: one, selected: one === version }, `v${one}`)));
    const head = el('div', { class: 'tools' }, choose);
    if (!record) return el('section', {}, head);
    const written = record.critiques.filter((critique) => critique.version === version);
    head.append(el('button', { type: 'button', class: 'link', onclick: () => open(record.id) }, `Episode ${record.id}`), endChip(record));
    return el('section', { 'aria-label': `Critic v${version}` }, head,
      said('Response', record.response === null ? el('p', { class: 'empty' }, 'None.') : textBlock(record.response)),
      written.map((critique, number_) => critiqueBlock(critique, number_, record.response)));
  };
  const [{ prompt }] = records;
  place.classList.add('wide');
  place.replaceChildren(
    el('header', {}, el('div', { class: 'line' }, el('button', { type: 'button', onclick: back }, 'Back'),
      el('h1', {}, 'Critics on one prompt'), el('span', {}, shown(prompt.task), ', prompt ', el('code', {}, shown(prompt.id)))),
    el('div', { class: 'tools' }, lookTools(() => again(picked)))),
    said('Prompt', textBlock(prompt.text)),
    versions.length < 2 ? el('p', { class: 'empty' }, `Only critic v${versions[0] ?? '–'} has criticised responses to this prompt so far.`) : '',
    el('div', { class: 'versus' }, side(0), versions.length > 1 ? side(1) : null));
}
