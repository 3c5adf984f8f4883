
// The list of episodes, its filter, and what is open.

/** Rows that are drawn at a time. */
const ROWS = 60;

class Episodes {
  constructor(source) {
    this.source = source;
    this.rows = [];
    this.next = null;
    this.open = null;
    this.tasks = new Set();
    /** Counts lists that were asked for: an answer that comes late is dropped. */
    this.asked = 0;
    $('filter').addEventListener('input', () => this.soon());
    $('filter').addEventListener('reset', () => setTimeout(() => this.refresh()));
    $('filter').addEventListener('submit', (event) => event.preventDefault());
    $('more').addEventListener('click', () => this.extend());
    $('newer').addEventListener('click', () => this.refresh());
  }

  filter() {
    const given = new FormData($('filter'));
    const filter = Object.fromEntries([...given].map(([name, value]) => [name, value.trim()]));
    filter.version = filter.version.replace(/^v/i, '');
    if (!/^\d*$/.test(filter.version)) filter.version = '';
    return { ...filter, invalid: given.has('invalid') };
  }

  soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), 30);
  }

  /** The list from its beginning. */
  async refresh() {
    if (!$('filter').checkValidity()) return;
    this.aborted?.abort();
    this.aborted = new AbortController();
    this.asked += 1;
    const asked = this.asked;
    const filter = this.filter();
    try {
      let page = await this.source.list(filter, null, ROWS, this.aborted.signal);
      // A search that took too long ends early: it goes on until there is something to show.
      const found = [...page.episodes];
      while (found.length < ROWS && page.next !== null && asked === this.asked) {
        page = await this.source.list(filter, page.next, ROWS - found.length, this.aborted.signal);
        found.push(...page.episodes);
      }
      if (asked !== this.asked) return;
      [this.rows, this.next, this.total, this.kept] = [found, page.next, page.total, page.kept];
      $('list').replaceChildren(...found.map((episode) => this.row(episode)));
      $('newer').hidden = true;
      this.offer(page.tasks);
      this.tell();
    } catch (error) {
      if (error.name === 'AbortError') return;
      $('count').textContent = error.message;
    }
  }

  async extend() {
    this.asked += 1;
    const asked = this.asked;
    let page;
    try {
      page = await this.source.list(this.filter(), this.next, ROWS);
    } catch (error) {
      $('count').textContent = error.message;
      return;
    }
    // Another filter, or another click, has been faster.
    if (asked !== this.asked) return;
    this.rows.push(...page.episodes);
    this.next = page.next;
    $('list').append(...page.episodes.map((episode) => this.row(episode)));
    this.tell();
  }

  tell() {
    const all = this.next === null && this.rows.length;
    const found = all !== false ? number(all) : this.total === null ? `${number(this.rows.length)} or more` : number(Math.max(this.total, this.rows.length));
    $('count').textContent = `${found} of ${number(this.kept)} episodes`;
    $('more').hidden = this.next === null;
    this.mark();
  }

  /** Offers `tasks` in the filter, beside those that it has. */
  offer(tasks) {
    tasks.filter((task) => !this.tasks.has(task)).forEach((task) => {
      this.tasks.add(task);
      $('filter').task.append(el('option', { value: task }, task.slice(0, 60)));
    });
  }

  row({ id, time, end, why, task, prompt, critiques, invalid }) {
    const versions = [...new Set(critiques.map(({ version }) => `v${version}`))].join(' ');
    const notes = [end === 'dropped' && `dropped: ${(why ?? '').replaceAll('_', ' ')}`, invalid > 0 && `${invalid} invalid`].filter(Boolean);
    const cus = critiques.map(({ cu }) => cu);
    const valid = cus.filter((cu) => cu !== null);
    const mean = valid.length ? valid.reduce((a, b) => a + b) / valid.length : null;
    return el('li', {}, el('a', { href: `#episode=${id}`, 'data-id': id },
      el('span', { class: 'head' }, el('b', {}, String(id)), el('span', {}, shown(task)), el('span', {}, versions),
        el('time', { datetime: new Date(time).toISOString() }, this.source.isLive ? ago(time) : dateTime(time)),
        end === 'zero_variance' ? el('span', {}, 'zero variance') : null,
        notes.map((note) => el('span', { class: 'alert' }, note))),
      score(mean), el('span', { class: 'preview', dir: 'auto' }, shown(prompt.replace(/\s+/g, ' '))), strip(cus)));
  }

  links() {
    return [...$('list').querySelectorAll('a')];
  }

  /** Marks the open episode in the list. */
  mark() {
    for (const link of this.links()) {
      if (Number(link.dataset.id) === this.open) link.setAttribute('aria-current', 'true');
      else link.removeAttribute('aria-current');
    }
  }

  /** Moves by `by` rows: opens the next tree if one is open, else moves the focus. */
  move(by) {
    const links = this.links();
    const at = links.findIndex((link) => link === document.activeElement);
    const current = at >= 0 ? at : links.findIndex((link) => Number(link.dataset.id) === this.open);
    const next = links[current < 0 ? 0 : Math.min(links.length - 1, Math.max(0, current + by))];
    if (!next) return;
    next.focus();
    next.scrollIntoView({ block: 'nearest' });
    if (this.open !== null) location.hash = next.getAttribute('href');
  }

  close() {
    this.open = null;
    this.again = null;
    $('view-episodes').classList.remove('open');
    $('tree').replaceChildren(el('p', { class: 'empty' }, 'Choose an episode: its prompt, response, critiques and refinements are shown here.'));
    this.mark();
  }

  /** Shows the tree of `id`. */
  async show(id) {
    this.open = id;
    this.mark();
    $('view-episodes').classList.add('open');
    let record;
    try {
      record = await this.source.get(id);
    } catch (error) {
      $('tree').replaceChildren(el('p', { class: 'alert' }, error.message));
      return;
    }
    if (this.open !== id) return;
    this.again = () => showTree($('tree'), record, {
      compare: () => { location.hash = `compare=${encodeURIComponent(record.prompt.id)}`; },
      back: () => { location.hash = 'episodes'; },
      again: () => this.again(),
    });
    this.again();
    this.compare = () => { location.hash = `compare=${encodeURIComponent(record.prompt.id)}`; };
    $('tree').scrollTop = 0;
  }

  /** Shows what two critics made of the prompt `prompt`. */
  async versus(prompt) {
    const asked = `compare=${prompt}`;
    this.open = null;
    this.mark();
    $('view-episodes').classList.add('open');
    const place = $('tree');
    try {
      const page = await this.source.list({ prompt }, null, 200);
      const versions = new Map();
      // The newest episode of each critic is enough, and a record is read once.
      page.episodes.forEach((episode) => episode.critiques.forEach(({ version }) => {
        if (!versions.has(version)) versions.set(version, episode.id);
      }));
      const ids = [...new Set(versions.values())].slice(0, 40);
      const records = await Promise.all(ids.map((id) => this.source.get(id)));
      if (decodeURIComponent(location.hash.slice(1)) !== asked) return;
      if (!records.length) throw new Error('no critic has criticised a response to this prompt');
      const show = (chosen) => showVersus(place, records, chosen, {
        open: (id) => { location.hash = `episode=${id}`; },
        back: () => history.back(),
        again: (next) => { this.again = () => show(next); show(next); },
      });
      this.again = () => show([]);
      show([]);
    } catch (error) {
      place.replaceChildren(el('p', { class: 'alert' }, error.message));
    }
  }

  /** Looks for episodes that have ended since, without moving the list. */
  async watch() {
    if ($('view-episodes').hidden || document.hidden || !$('filter').checkValidity()) return;
    const page = await this.source.list(this.filter(), null, ROWS);
    const known = new Set(this.rows.map(({ id }) => id));
    const fresh = page.episodes.filter(({ id }) => !known.has(id)).length;
    $('newer').hidden = fresh === 0;
    $('newer').textContent = `${fresh === ROWS ? `${ROWS} or more` : fresh} new`;
  }
}
