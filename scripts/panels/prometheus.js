// What Grafana's data source does: fills in a dashboard's variables, asks Prometheus, and makes frames of the answers.
// Knows nothing of how a panel looks.

import { FieldType, dateTime, rangeUtil } from '@grafana/data';

// The scrape interval that dashboards/provisioning tells Grafana.
const SCRAPE = '15s';

/** A span of time in Grafana's form, from two times in seconds since 1970. */
export function span(from, to) {
  const [first, last] = [dateTime(1000 * from), dateTime(1000 * to)];
  return { from: first, to: last, raw: { from: first, to: last } };
}

/** Asks the Prometheus at `url` for what `board` shows of `time`. */
export class Source {
  constructor(url, board, time) {
    this.url = url;
    this.time = time;
    this.variables = Object.fromEntries(board.templating.list.map((variable) => [variable.name, chosen(variable)]));
  }

  /** The frames of a panel that is `width` pixels wide. */
  async frames(panel, width) {
    const answers = panel.targets.map((target) => (target.range ? this.overTime(target, width) : this.atTheEnd(target)));
    return (await Promise.all(answers)).flat();
  }

  /** The regions of an annotation's query: from a time above 0 until the last that follows without a gap. */
  async regions(annotation) {
    const step = rangeUtil.intervalToSeconds(annotation.step);
    const regions = [];
    for (const { labels, times } of await this.range(annotation.expr, step)) {
      for (const time of times) {
        const last = regions.at(-1);
        if (last?.labels === labels && time - last.to <= 1000 * step) last.to = time;
        else regions.push({ labels, from: time, to: time, color: annotation.iconColor });
      }
    }
    return regions;
  }

  async overTime({ expr, legendFormat, format, refId }, width) {
    const { intervalMs } = rangeUtil.calculateInterval(this.time, Math.max(width, 1), SCRAPE);
    const series = await this.range(expr, intervalMs / 1000);
    const frames = series.map(({ labels, times, values }) => ({
      refId,
      length: times.length,
      fields: [
        { name: 'Time', type: FieldType.time, config: { interval: intervalMs }, values: times },
        { name: 'Value', type: FieldType.number, config: { displayNameFromDS: legend(legendFormat, labels) }, labels, values },
      ],
    }));
    return format === 'heatmap' ? [buckets(frames)] : frames;
  }

  async atTheEnd({ expr, legendFormat, format, refId }) {
    const { result } = await this.ask('query', { query: this.filled(expr, 0), time: this.time.to.unix() });
    const field = (name, type, values, more) => ({ name, type, config: {}, values, ...more });
    const times = result.map(({ value }) => 1000 * value[0]);
    const values = result.map(({ value }) => Number(value[1]));
    if (format === 'table') {
      const names = [...new Set(result.flatMap(({ metric }) => Object.keys(metric)))].sort();
      const labels = names.map((name) => field(name, FieldType.string, result.map(({ metric }) => metric[name] ?? '')));
      const fields = [field('Time', FieldType.time, times), ...labels, field('Value', FieldType.number, values)];
      return [{ refId, length: result.length, fields }];
    }
    return result.map(({ metric }, n) => {
      const config = { displayNameFromDS: legend(legendFormat, metric) };
      const value = field('Value', FieldType.number, [values[n]], { labels: metric, config });
      return { refId, length: 1, fields: [field('Time', FieldType.time, [times[n]]), value] };
    });
  }

  /** Each series of `expr`, by steps that begin at whole multiples of a step; NaN is a gap. */
  async range(expr, step) {
    const [start, end] = [this.time.from, this.time.to].map((time) => Math.floor(time.unix() / step) * step);
    const { result } = await this.ask('query_range', { query: this.filled(expr, step), start, end, step });
    return result.map(({ metric: labels, values: points }) => ({
      labels,
      times: points.map(([time]) => 1000 * time),
      values: points.map(([, value]) => (value === 'NaN' ? null : Number(value))),
    }));
  }

  /** `expr` with the dashboard's variables and Grafana's own. */
  filled(expr, step) {
    const scrape = rangeUtil.intervalToSeconds(SCRAPE);
    const own = { __interval: `${step}s`, __rate_interval: `${Math.max(step + scrape, 4 * scrape)}s` };
    const known = { ...own, ...this.variables };
    return expr.replace(/\$(?:\{(\w+)\}|(\w+))/g, (text, braced, bare) => {
      const value = known[braced ?? bare];
      if (value === undefined) throw new Error(`${expr}: the dashboard has no variable ${text}`);
      return value;
    });
  }

  async ask(path, parameters) {
    const answer = await fetch(`${this.url}/api/v1/${path}?${new URLSearchParams(parameters)}`);
    const { status, error, data } = await answer.json();
    if (status !== 'success') throw new Error(`${parameters.query}: ${error}`);
    return data;
  }
}

/** What a variable puts into a query: the value for all, or the values as a regular expression. */
function chosen({ type, current, allValue }) {
  if (type === 'datasource') return '';
  const values = [current.value].flat();
  return values.includes('$__all') ? allValue : `(${values.join('|')})`;
}

/** The name of a series; without a format, all its labels. */
function legend(format, labels) {
  if (format) return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? '');
  const { __name__: name = '', ...others } = labels;
  return `${name}{${Object.entries(others).map(([label, value]) => `${label}="${value}"`).join(', ')}}`;
}

/** One frame of a histogram's cumulative series: a field for each bucket, with what it holds beyond the one below. */
function buckets(frames) {
  const bound = ({ fields }) => Number(fields[1].labels.le.replace('+Inf', 'Infinity'));
  const sorted = frames.toSorted((a, b) => bound(a) - bound(b));
  if (sorted.length === 0) return { length: 0, fields: [] };
  const [time] = sorted[0].fields;
  const counts = sorted.map(({ fields: [times, { values }] }) => {
    const at = new Map(times.values.map((moment, n) => [moment, values[n]]));
    return time.values.map((moment) => at.get(moment) ?? 0);
  });
  const own = counts.map((row, n) => row.map((count, m) => Math.max(0, count - (counts[n - 1]?.[m] ?? 0))));
  return { length: time.values.length, fields: [time, ...sorted.map(({ fields }, n) => ({ ...fields[1], values: own[n] }))] };
}
