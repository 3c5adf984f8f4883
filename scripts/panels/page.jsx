// A dashboard as Grafana shows it, drawn with Grafana's own components: `drawDashboard` is what scripts/draw-panels calls.
// Knows no HTTP: frames come from prometheus.js.

import {
  createTheme,
  fieldMatchers,
  getDisplayProcessor,
  standardTransformers,
  standardTransformersRegistry,
  transformDataFrame,
} from '@grafana/data';
import { GlobalStyles, PanelChrome, ThemeContext } from '@grafana/ui';
import { flushSync } from 'react-dom';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';
import { Heat, Numbers, Rows, Series } from './panels.jsx';
import { Source, span } from './prometheus.js';

// Grafana's grid: columns of the page, and pixels of a cell and of what is between two.
const [COLUMNS, CELL, GAP] = [24, 30, 8];
const SHAPES = { stat: Numbers, timeseries: Series, heatmap: Heat, table: Rows };
// What a panel's title, and the padding around what it draws, take of its height.
const TITLE = 40;

// Some transformers have two names there.
const transformers = new Map(Object.values(standardTransformers).map((one) => [one.id, one]));
standardTransformersRegistry.setInit(() => [...transformers].map(([id, one]) => ({ id, name: one.name, transformation: one })));

/** Draws the dashboard at `url`, `width` pixels wide. The height of the page and the titles of panels that have no data. */
window.drawDashboard = async (url, { prometheus, from, to, width, colours }) => {
  const board = await (await fetch(url)).json();
  const theme = createTheme({ colors: { mode: colours } });
  const [time, cell] = [span(from, to), (width - GAP) / COLUMNS];
  const source = new Source(prometheus, board, time);
  const drawn = await Promise.all(
    board.panels.map(async (panel) => {
      const { x, y, w, h } = panel.gridPos;
      const place = { left: GAP + x * cell, top: y * (CELL + GAP), width: w * cell - GAP, height: h * (CELL + GAP) - GAP };
      return { panel, place, frames: panel.targets ? await shown(panel, await source.frames(panel, place.width), theme) : [] };
    }),
  );
  const regions = (await Promise.all(board.annotations.list.map((one) => source.regions(one)))).flat();
  const marks = regions.map(({ color, ...one }) => ({ ...one, color: theme.visualization.getColorByName(color) }));
  const height = Math.max(...drawn.map(({ place }) => place.top + place.height)) + TITLE + GAP;
  const page = (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <Bar board={board} theme={theme} time={time} />
      <main style={{ position: 'relative', width, height: height - TITLE }}>
        {drawn.map((one) => (
          <Panel key={one.panel.id} {...one} {...{ marks, theme, time }} />
        ))}
      </main>
    </ThemeContext.Provider>
  );
  Object.assign(document.body.style, { margin: 0, background: theme.colors.background.canvas });
  await Promise.all([400, 500].map((weight) => document.fonts.load(`${weight} 12px Inter`)));
  const root = createRoot(document.body.appendChild(document.createElement('div')));
  flushSync(() => root.render(page));
  const isEmpty = ({ panel, frames }) => panel.targets && frames.every(({ length }) => length === 0);
  return { height, empty: drawn.filter(isEmpty).map(({ panel }) => panel.title) };
};

/** The frames after the panel's transformations, with what its field configuration says. */
async function shown({ fieldConfig: { defaults, overrides }, transformations = [] }, frames, theme) {
  const transformed = await lastValueFrom(transformDataFrame(transformations, frames));
  let number = 0;
  for (const frame of transformed) {
    for (const field of frame.fields) {
      const isNumber = field.type === 'number';
      // The unit, the colours and the exceptions are those of values.
      field.config = { ...(isNumber ? structuredClone(defaults) : { custom: defaults.custom }), ...field.config };
      if (isNumber) overrides.forEach((override) => exception(override, frame, transformed, field));
      field.state = { seriesIndex: isNumber ? number++ : 0 };
      field.display = getDisplayProcessor({ field, theme });
    }
  }
  return transformed;
}

/** Gives the field the properties of `override`, if it is for such a field. */
function exception({ matcher, properties }, frame, frames, field) {
  if (!fieldMatchers.get(matcher.id).get(matcher.options)(field, frame, frames)) return;
  for (const { id, value } of properties) {
    const [name, inside] = id.split('.');
    if (inside) field.config[name][inside] = value;
    else field.config[name] = value;
  }
}

/** The title, the variables and the time. */
function Bar({ board, theme, time }) {
  const text = ({ type, current }) => (type === 'datasource' ? 'Prometheus' : [current.text].flat().join(', '));
  const line = { display: 'flex', gap: 2 * GAP, alignItems: 'center', whiteSpace: 'nowrap' };
  const style = { height: TITLE, padding: GAP, boxSizing: 'border-box', ...line };
  const faint = { color: theme.colors.text.secondary };
  return (
    <header style={style}>
      <strong style={{ fontWeight: 500 }}>{board.title}</strong>
      {board.templating.list.map((variable) => (
        <span key={variable.name}>
          <span style={faint}>{variable.label}</span> {text(variable)}
        </span>
      ))}
      <span style={{ ...faint, marginLeft: 'auto' }}>
        {time.from.format('YYYY-MM-DD HH:mm')} to {time.to.format('HH:mm')}
      </span>
    </header>
  );
}

function Panel({ panel, place, frames, ...more }) {
  const style = { position: 'absolute', ...place };
  if (panel.type === 'row') {
    return <h6 style={{ ...style, margin: 0, lineHeight: `${place.height}px`, fontWeight: 500 }}>{panel.title}</h6>;
  }
  const Shape = SHAPES[panel.type];
  if (!Shape) throw new Error(`${panel.title}: no panel of type ${panel.type} can be drawn`);
  return (
    <div style={style}>
      <PanelChrome title={panel.title} description={panel.description} width={place.width} height={place.height}>
        {(width, height) => <Shape {...panel} {...more} {...{ frames, width, height }} />}
      </PanelChrome>
    </div>
  );
}
