
// Where episodes come from: a running node, or this file.

/** A node that answers. Its token, if it asks for one, is kept by this tab alone. */
class LiveSource {
  isLive = true;

  headers() {
    const token = sessionStorage.getItem('token');
    return token ? { authorization: `Bearer ${token}` } : {};
  }

  async fetch(path, more = {}) {
    const response = await fetch(path, { ...more, headers: { ...this.headers(), ...more.headers }, cache: 'no-store' });
    if (response.status === 401 || (response.status === 403 && this.headers().authorization)) {
      sessionStorage.removeItem('token');
      await this.askToken();
      return this.fetch(path, more);
    }
    return response;
  }

  /** Resolves once a token is given; those who ask at once get the same one. */
  askToken() {
    this.asking ??= new Promise((resolve) => {
      $('token-dialog').showModal();
      $('token-dialog').addEventListener('close', () => {
        sessionStorage.setItem('token', $('token').value.trim());
        $('token').value = '';
        this.asking = undefined;
        resolve();
      }, { once: true });
    });
    return this.asking;
  }

  async json(path, more) {
    const response = await this.fetch(path, more);
    const body = await response.json().catch(() => null);
    if (!response.ok) throw new Error(body?.error?.message ?? `${path}: ${response.status}`);
    return body;
  }

  list(filter, before, limit, signal) {
    const query = new URLSearchParams(Object.entries(filter).filter(([, value]) => value !== '' && value !== false));
    if (before !== null && before !== undefined) query.set('before', before);
    query.set('limit', limit);
    return this.json(`episodes?${query}`, { signal });
  }

  get(id) {
    return this.json(`episodes/${id}`);
  }
}

/** Records in this file. */
class FileSource {
  isLive = false;

  constructor(records) {
    this.records = records;
    this.byId = new Map(records.map((record) => [record.id, record]));
    this.summaries = records.map(summaryOf);
    this.tasks = [...new Set(records.map(({ prompt }) => prompt.task))].sort();
    // One lower-case string each: a search looks at nothing else.
    this.texts = records.map((record) => textsOf(record).join('\u0000').toLowerCase());
  }

  async list(filter, before, limit) {
    const text = (filter.text ?? '').toLowerCase();
    const found = [];
    this.summaries.forEach((summary, index) => {
      if (matches(summary, filter) && (text === '' || this.texts[index].includes(text))) found.push(summary);
    });
    const from = before ?? 0;
    const next = from + limit < found.length ? from + limit : null;
    return { episodes: found.slice(from, from + limit), next, total: found.length - from, kept: this.records.length, tasks: this.tasks };
  }

  async get(id) {
    const record = this.byId.get(id);
    if (!record) throw new Error(`episode ${id} is not in this file`);
    return record;
  }
}

function textsOf(record) {
  const refined = record.critiques.flatMap((critique) => [critique.text, ...critique.refinements.map(({ text }) => text)]);
  return [record.prompt.text, record.response ?? '', ...refined];
}

const isInvalid = (verdict) => typeof verdict === 'object';

function summaryOf(record) {
  const { id, time, end, why = null, prompt, critiques } = record;
  const verdicts = critiques.flatMap(({ refinements }) => refinements.flatMap(({ verdicts }) => verdicts));
  return {
    id, time, end, why, prompt_id: prompt.id, task: prompt.task, prompt: prompt.text.slice(0, 160),
    critiques: critiques.map(({ version, utility, dropped }) => ({ version, cu: dropped ? null : utility })),
    invalid: verdicts.filter(isInvalid).length,
  };
}

/** Whether a summary passes everything but the text; as the node decides it. */
function matches(summary, { task, prompt, version, cu_min: min, cu_max: max, invalid }) {
  const given = (value) => value !== undefined && value !== '';
  const fits = (critique) => (!given(version) || critique.version === Number(version))
    && (!given(min) || (critique.cu !== null && critique.cu >= Number(min)))
    && (!given(max) || (critique.cu !== null && critique.cu <= Number(max)));
  const hasInvalid = () => summary.invalid > 0 || summary.end === 'dropped' || summary.critiques.some(({ cu }) => cu === null);
  return (!given(task) || summary.task === task) && (!given(prompt) || summary.prompt_id === prompt)
    && (!invalid || hasInvalid())
    && (!(given(version) || given(min) || given(max)) || summary.critiques.some(fits));
}

function openSource() {
  const records = $('records');
  return records ? new FileSource(JSON.parse(records.textContent)) : new LiveSource();
}
