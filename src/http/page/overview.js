
// What the node does: its status, the last hour, and its events.

/** Episodes that the chart of critique utility is drawn from. */
const EPISODES_MAX = 2000;

const total = (rows, key) => rows.reduce((sum, row) => sum + row[key], 0);

class Overview {
  constructor(source) {
    this.source = source;
    this.samples = [];
    /** Mean CU of each episode by its id. */
    this.episodes = new Map();
    this.charts = {
      cu: chart('Critique utility by task', { from: 0, to: 1 }),
      loss: chart('Loss by learner step', { digits: 4, x: (step) => `step ${number(step)}` }),
      tokens: chart('Tokens per second', { digits: 0, from: 0 }),
      held: chart('Groups in the buffer', { digits: 0, from: 0 }),
    };
    $('charts').append(...Object.values(this.charts).map(({ figure }) => figure));
  }

  start() {
    this.every(2000, () => this.showStatus());
    this.every(5000, () => this.showSeries());
    this.every(10000, () => this.showUtility());
    this.follow();
  }

  /** Does `work` again and again while somebody can see it. */
  async every(milliseconds, work) {
    for (;;) {
      if (!document.hidden) {
        await work().catch(() => {});
      }
      await new Promise((resolve) => { setTimeout(resolve, milliseconds); });
    }
  }

  async showStatus() {
    let status;
    try {
      status = await this.source.json('admin/status');
    } catch (error) {
      this.state('bad', error instanceof TypeError ? 'the node does not answer' : error.message);
      throw error;
    }
    const paused = Object.entries(status.paused).filter(([, is]) => is).map(([part]) => part);
    const stalled = status.device_stalled_seconds;
    if (stalled !== null) this.state('bad', `the device has stood still for ${span(stalled)}`);
    else if (paused.length) this.state('', `${paused.join(' and ')} paused`);
    else if (status.waits_for === 'nothing') this.state('good', 'running');
    else this.state('', `waits for ${status.waits_for}`);
    if ($('view-overview').hidden) return;
    this.tiles(status);
    this.actors(status);
    this.queues(status);
    this.memory(status.memory);
  }

  state(kind, text) {
    document.querySelector('.lamp').className = `lamp ${kind}`;
    if ($('state-text').textContent !== text) $('state-text').textContent = text;
  }

  tiles(status) {
    const { versions, rates, queues } = status;
    const critic = [versions.pinned !== null && 'pinned', versions.on_trial !== null && `v${versions.on_trial} on trial`,
      `${versions.in_memory} in memory`].filter(Boolean).join(', ');
    const tiles = [
      ['Critique utility', cuText(status.utility_mean), `${number(status.groups)} groups scored`],
      ['Learner step', number(status.step), `${number(rates.steps_per_minute, 1)} per minute`],
      ['Loss', number(status.loss, 4), status.staleness ? `age ${number(status.staleness.mean, 1)} versions` : 'no step yet'],
      ['Critic in service', `v${versions.serving}`, critic],
      ['Tokens per second', number(rates.tokens_per_second), `${queues.sequences_running} sequences`],
      ['Episodes', number(status.episodes), `${number(rates.episodes_per_minute, 1)} per minute, ${queues.episodes_in_flight} under way`],
      ['Left out', number(status.dropped), `and ${number(status.zero_variance)} of zero variance`],
      ['Memory', `${number(total(status.memory, 'bytes') / 2 ** 30, 1)} GiB`, `of ${number(total(status.memory, 'planned_bytes') / 2 ** 30, 1)} planned`],
    ];
    $('tiles').replaceChildren(...tiles.map(([name, value, note]) => el('div', { class: 'tile' },
      el('h2', {}, name), el('p', { class: 'value' }, value), el('p', { class: 'note' }, note))));
  }

  actors({ actors }) {
    const row = ({ actor, in_flight: jobs, oldest }) => el('tr', { class: jobs ? null : 'idle' }, el('td', {}, actor),
      el('td', { class: 'number' }, number(jobs)),
      el('td', {}, oldest ? `${oldest.what}${oldest.subject ? ` (${oldest.subject})` : ''}` : 'idle'),
      el('td', { class: 'number' }, oldest ? span(oldest.seconds) : ''));
    $('actors').tBodies[0].replaceChildren(...actors.map(row));
  }

  queues({ queues, restarts, versions, staleness }) {
    const pairs = [
      ['Sequences running, waiting', `${queues.sequences_running}, ${queues.sequences_waiting}`],
      ['KV cache in use', `${number(100 * queues.kv_usage)} %`],
      ['Commands for the device', number(queues.device_commands)],
      ['Groups held', number(queues.groups_held)],
      ['Greatest age learned from', staleness ? `${staleness.max} version${staleness.max === 1 ? '' : 's'}` : '–'],
      ['Critics in memory', number(versions.in_memory)],
      ['Requests for texts', number(queues.http_requests)],
      ['Restarts of actors', number(restarts)],
    ];
    $('queues').replaceChildren(...pairs.flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
  }

  memory(rows) {
    const most = Math.max(...rows.map((row) => Math.max(row.bytes, row.planned_bytes)), 1);
    const bar = ({ bytes, planned_bytes: planned }) => {
      const [held, mark] = [el('i', { class: bytes > 1.15 * planned ? 'over' : null }), el('b', { title: 'planned' })];
      held.style.width = `${(100 * bytes) / most}%`;
      mark.style.left = `calc(${(100 * planned) / most}% - 1px)`;
      return el('div', { class: 'meter', 'aria-hidden': 'true' }, held, mark);
    };
    const line = (row) => el('div', { class: 'owner' }, el('span', {}, row.owner === 'kv_cache' ? 'KV cache' : row.owner), bar(row),
      el('span', { class: 'number' }, `${mib(row.bytes)} of ${mib(row.planned_bytes)} MiB`));
    $('memory').replaceChildren(...rows.map(line), el('div', { class: 'owner' }, el('span', {}, 'together'), el('span'),
      el('span', { class: 'number' }, `${mib(total(rows, 'bytes'))} of ${mib(total(rows, 'planned_bytes'))} MiB`)));
  }

  async showSeries() {
    const last = this.samples.length ? this.samples[this.samples.length - 1].time : 0;
    this.samples.push(...await this.source.json(`admin/series?after=${last}`));
    this.samples.splice(0, this.samples.length - 720);
    if ($('view-overview').hidden) return;
    const over = (name, y) => [{ name, points: this.samples.filter((one) => one[y] !== null).map((one) => [one.time, one[y]]) }];
    const losses = new Map(this.samples.filter(({ loss }) => loss !== null).map(({ step, loss }) => [step, loss]));
    this.charts.loss.draw([{ name: 'loss', points: [...losses] }]);
    this.charts.tokens.draw(over('tokens per second', 'tokens_per_second'));
    this.charts.held.draw(over('groups', 'groups_held'));
  }

  async showUtility() {
    if ($('view-overview').hidden) return;
    let before = null;
    for (let pages = 0; pages < 4; pages += 1) {
      const page = await this.source.list({}, before, 250);
      const fresh = page.episodes.filter(({ id }) => !this.episodes.has(id));
      fresh.forEach((episode) => this.episodes.set(episode.id, episode));
      before = page.next;
      if (fresh.length < page.episodes.length || before === null) break;
    }
    const newest = [...this.episodes.values()].sort((a, b) => a.time - b.time).slice(-EPISODES_MAX);
    this.episodes = new Map(newest.map((episode) => [episode.id, episode]));
    this.charts.cu.draw(utilityByTask(newest));
  }

  /** Follows the node's events; goes on after the last one when the connection breaks. */
  async follow() {
    for (let last = 0; ;) {
      try {
        const response = await this.source.fetch(`events?after=${last}`, { headers: { accept: 'text/event-stream' } });
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let rest = ''; response.ok;) {
          const { value, done } = await reader.read();
          if (done) break;
          const blocks = (rest + value).split('\n\n');
          rest = blocks.pop();
          for (const block of blocks) last = this.event(block) ?? last;
        }
      } catch {
        // The status says that the node does not answer.
      }
      await new Promise((resolve) => { setTimeout(resolve, 2000); });
    }
  }

  event(block) {
    const data = block.split('\n').filter((line) => line.startsWith('data:')).map((line) => line.slice(5).trim()).join('\n');
    if (!data.startsWith('{')) return null;
    const { id, time, kind, text } = JSON.parse(data);
    if (kind !== 'activity') {
      $('events').prepend(el('li', {}, el('time', { datetime: new Date(time).toISOString() }, clock(time)), el('span', {}, shown(text))));
      while ($('events').childElementCount > 100) $('events').lastElementChild.remove();
    }
    return id;
  }
}

/** Mean CU of the commonest tasks of `episodes`, which are in the order of time; each point over as many episodes as make about forty points. */
function utilityByTask(episodes) {
  const tasks = new Map();
  for (const { time, task, critiques } of episodes) {
    const cus = critiques.map(({ cu }) => cu).filter((cu) => cu !== null);
    if (!cus.length) continue;
    if (!tasks.has(task)) tasks.set(task, []);
    tasks.get(task).push([time, cus.reduce((a, b) => a + b) / cus.length]);
  }
  const common = [...tasks].sort((a, b) => b[1].length - a[1].length).slice(0, 5);
  return common.map(([name, all]) => {
    const wide = Math.max(4, Math.ceil(all.length / 40));
    const points = [];
    for (let end = all.length; end > 0; end -= wide) {
      const part = all.slice(Math.max(0, end - wide), end);
      const mean = (index) => part.reduce((sum, point) => sum + point[index], 0) / part.length;
      points.unshift([mean(0), mean(1)]);
    }
    return { name, points };
  });
}
