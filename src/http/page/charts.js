
// Line charts in plain SVG. A chart is drawn into a box of 1000 by 100 that is stretched; its labels are text around it.

/** A figure that `draw` fills with series: [{ name, points: [[x, y], ...] }]. */
function chart(title, { digits = 2, unit = '', from = null, to = null, x = clock }) {
  const readout = el('output');
  const svg = drawn('svg', { viewBox: '0 0 1000 100', preserveAspectRatio: 'none', role: 'img', 'aria-label': title });
  const [high, low, first, last] = [0, 1, 2, 3].map(() => el('span'));
  const legend = el('div', { class: 'legend' });
  const empty = el('p', { class: 'empty' }, 'Nothing yet.');
  const plot = el('div', { class: 'plot', hidden: true }, el('div', { class: 'y' }, high, low), svg,
    el('div', { class: 'x' }, first, last));
  const figure = el('figure', { class: 'panel chart' }, el('figcaption', {}, el('h2', {}, title), readout), empty, plot, legend);
  const value = (y) => `${number(y, digits)}${unit}`;
  let state = null;

  const latest = () => {
    if (!state) return;
    tell(state.series.map(({ points }) => points[points.length - 1]), '');
  };

  /** Shows the values of one moment: in the legend, or beside the title of a single series. */
  const tell = (points, when) => {
    const isOne = state.series.length === 1;
    readout.textContent = isOne ? `${when}${value(points[0][1])}` : when.replace(/: $/, '');
    legend.querySelectorAll('output').forEach((place, index) => { place.textContent = value(points[index][1]); });
  };

  const draw = (given) => {
    const series = given.filter(({ points }) => points.length > 0);
    const points = series.flatMap((one) => one.points);
    const spread = points.length > 1 && Math.max(...points.map((p) => p[0])) > Math.min(...points.map((p) => p[0]));
    empty.hidden = spread;
    plot.hidden = !spread;
    if (!spread) return;
    const xs = points.map((p) => p[0]);
    const ys = points.map((p) => p[1]);
    const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
    let [y0, y1] = [from ?? Math.min(...ys), to ?? Math.max(...ys)];
    if (y1 <= y0) [y0, y1] = [y0 - (from === null ? 1 : 0), y0 + 1];
    const px = (at) => ((at - x0) / (x1 - x0)) * 1000;
    const py = (at) => 100 - ((at - y0) / (y1 - y0)) * 100;
    const curve = ({ points: line }, index) => drawn('polyline', {
      class: `curve c${(index % 5) + 1}`, points: line.map(([a, b]) => `${px(a).toFixed(1)},${py(b).toFixed(2)}`).join(' '),
    });
    const axes = [0, 50, 100].map((at) => drawn('line', { class: 'axis', x1: 0, x2: 1000, y1: at, y2: at }));
    const cross = drawn('line', { class: 'cross', y1: 0, y2: 100, visibility: 'hidden' });
    svg.replaceChildren(...axes, ...series.map(curve), cross);
    [high.textContent, low.textContent] = [value(y1), value(y0)];
    [first.textContent, last.textContent] = [x(x0), x(x1)];
    const names = series.map(({ name }, index) => el('span', { class: `c${(index % 5) + 1}` }, shown(name), ' ', el('output')));
    legend.replaceChildren(...(series.length > 1 ? names : []));
    state = { series, x0, x1, px, cross };
    const told = series.map(({ name, points: line }) => `${name} ${value(line[line.length - 1][1])}`).join(', ');
    svg.setAttribute('aria-label', `${title}: ${told}`);
    if (!svg.matches(':hover')) latest();
  };

  svg.addEventListener('pointermove', (event) => {
    if (!state) return;
    const box = svg.getBoundingClientRect();
    const at = state.x0 + ((event.clientX - box.left) / box.width) * (state.x1 - state.x0);
    const near = (points) => points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
    const found = state.series.map(({ points }) => near(points));
    dress(state.cross, { x1: state.px(found[0][0]), x2: state.px(found[0][0]), visibility: 'visible' });
    tell(found, `${x(found[0][0])}: `);
  });
  svg.addEventListener('pointerleave', () => {
    state?.cross.setAttribute('visibility', 'hidden');
    latest();
  });
  return { figure, draw };
}
