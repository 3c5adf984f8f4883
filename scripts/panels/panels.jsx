// The shapes of panel that the dashboards have. Each gets the panel's own settings, frames, and a size in pixels.

import {
  VizOrientation,
  formattedValueToString,
  getDisplayValueAlignmentFactors,
  getFieldDisplayValues,
  getValueFormat,
} from '@grafana/data';
import { AxisPlacement, ScaleDirection, ScaleOrientation } from '@grafana/schema';
import { BigValue, Table, TimeSeries, UPlotChart, UPlotConfigBuilder, VizRepeater } from '@grafana/ui';
import { interpolateOranges } from 'd3-scale-chromatic';
import { useLayoutEffect } from 'react';

/** One large number for each series. */
export function Numbers({ frames, fieldConfig, options, theme, width, height }) {
  const given = { data: frames, fieldConfig, reduceOptions: options.reduceOptions, theme, replaceVariables: (text) => text };
  const { colorMode, graphMode, justifyMode, textMode } = options;
  const style = { colorMode, graphMode, justifyMode, textMode, theme };
  return (
    <VizRepeater
      getValues={() => getFieldDisplayValues(given)}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value, width, height, count, alignmentFactors }) => (
        <BigValue value={value.display} {...style} {...{ count, alignmentFactors, width, height }} />
      )}
      source={frames}
      itemSpacing={3}
      renderCounter={0}
      autoGrid
      orientation={VizOrientation.Auto}
      {...{ width, height }}
    />
  );
}

/** Lines and areas over time, with the dashboard's annotations. */
export function Series({ frames, options, time, marks, width, height }) {
  if (frames.length === 0) return <Nothing {...{ width, height }} />;
  return (
    <TimeSeries frames={frames} timeRange={time} timeZone="browser" legend={options.legend} {...{ width, height }}>
      {(config) => <Marks {...{ config, marks }} />}
    </TimeSeries>
  );
}

/** Annotations: a dashed line where each begins, and a bar below the plot as long as it lasts. */
function Marks({ config, marks }) {
  useLayoutEffect(() => {
    config.addHook('draw', ({ ctx, bbox: { left, top, width, height }, valToPos }) => {
      ctx.save();
      ctx.setLineDash([5, 5]);
      for (const { from, to, color } of marks) {
        const [x, end] = [valToPos(from, 'x', true), valToPos(to, 'x', true)];
        if (x < left) continue;
        ctx.strokeStyle = ctx.fillStyle = color;
        ctx.globalAlpha = 0.5;
        ctx.beginPath();
        ctx.moveTo(x, top);
        ctx.lineTo(x, top + height);
        ctx.stroke();
        ctx.globalAlpha = 1;
        ctx.fillRect(x - 2, top + height, Math.min(Math.max(end - x, 4), left + width - x), 4);
      }
      ctx.restore();
    });
  }, [config, marks]);
  return null;
}

/** Labels as a table. */
export function Rows({ frames: [frame], options, width, height }) {
  if (!frame?.length) return <Nothing {...{ width, height }} />;
  return <Table data={frame} cellHeight={options.cellHeight} {...{ width, height }} />;
}

/** A histogram over time: a band for each bucket, named by its upper end, and darker the more it holds. */
export function Heat({ frames: [frame], fieldConfig, theme, time, width, height }) {
  if (!frame?.length) return <Nothing {...{ width, height }} />;
  const config = heat(frame, fieldConfig.defaults.unit, theme, time);
  const [times, ...bands] = frame.fields.map(({ values }) => values);
  return <UPlotChart data={[times, ...bands]} {...{ config, width, height }} />;
}

function heat({ fields: [times, ...bands] }, unit, theme, time) {
  const builder = new UPlotConfigBuilder('browser');
  const horizontal = { orientation: ScaleOrientation.Horizontal, direction: ScaleDirection.Right };
  builder.addScale({ scaleKey: 'x', ...horizontal, isTime: true, range: () => [time.from.valueOf(), time.to.valueOf()] });
  builder.addAxis({ scaleKey: 'x', isTime: true, placement: AxisPlacement.Bottom, timeZone: 'browser', theme });
  const vertical = { orientation: ScaleOrientation.Vertical, direction: ScaleDirection.Up };
  builder.addScale({ scaleKey: 'y', ...vertical, range: () => [0, bands.length] });
  const name = (n) => {
    const end = bands[n - 1]?.labels.le;
    return Number.isFinite(Number(end)) ? formattedValueToString(getValueFormat(unit)(Number(end))) : (end ?? '');
  };
  // As many names as there is room for.
  const every = Math.ceil(bands.length / 8);
  const splits = [...Array(bands.length + 1).keys()].filter((n) => n % every === 0);
  builder.addAxis({ scaleKey: 'y', placement: AxisPlacement.Left, theme, splits, values: splits.map(name) });
  const unseen = { scaleKey: 'y', theme, show: true, drawStyle: 'line', lineWidth: 0, showPoints: 'never', pathBuilder: () => null };
  bands.forEach(() => builder.addSeries(unseen));
  const most = Math.max(...bands.flatMap(({ values }) => values));
  const step = times.config.interval;
  builder.addHook('draw', ({ ctx, valToPos }) => {
    bands.forEach(({ values }, n) => {
      const [bottom, above] = [valToPos(n, 'y', true), valToPos(n + 1, 'y', true)];
      values.forEach((count, m) => {
        if (!(count > 0)) return;
        const [left, right] = [valToPos(times.values[m] - step, 'x', true), valToPos(times.values[m], 'x', true)];
        ctx.fillStyle = interpolateOranges(theme.isDark ? 1 - count / most : count / most);
        ctx.fillRect(left, above, right - left - 1, bottom - above - 1);
      });
    });
  });
  return builder;
}

function Nothing({ width, height }) {
  return <div style={{ width, height, display: 'grid', placeItems: 'center' }}>No data</div>;
}
