/* The charts of the overview, drawn with uPlot, with the figures and times of their axes. */
"use strict";

// Return what draws a state's charts, anew or for the first time. `texts`: units, as for the page.
function durableCharts(root, texts, state) {
  const {make, morphChildren} = durableElements;

  // Figures and times -----------------------------------------------------------------------------

  const figures = (number) => {
    const rounded = number >= 9.95 ? Math.round(number) : Math.round(number * 10) / 10;
    return rounded.toLocaleString(document.documentElement.lang || undefined);
  };

  function count(number) {
    for (const [size, sign] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (number >= size) return figures(number / size) + sign;
    }
    return number > 0 && number < 0.1 ? "< 0.1" : figures(number);
  }

  function seconds(number) {
    if (number < 0.9995) {
      const ms = number * 1000;
      return texts.ms.replace("%s", ms >= 0.1 ? figures(ms) : String(Number(ms.toPrecision(1))));
    }
    if (number < 59.5) return texts.s.replace("%s", figures(number));
    if (number < 3570) return texts.min.replace("%s", figures(number / 60));
    return texts.h.replace("%s", figures(number / 3600));
  }

  const FORMATS = {count, seconds};

  function clock(options) {
    const lang = document.documentElement.lang || undefined;
    try {
      return new Intl.DateTimeFormat(lang, {...options, timeZone: state.zone});
    } catch {
      return new Intl.DateTimeFormat(lang, options);  // a zone that this browser does not know
    }
  }

  const hour = clock({hour: "2-digit", minute: "2-digit", hourCycle: "h23"});
  const day = clock({weekday: "short", day: "numeric"});
  const full = clock({
    weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit",
    hourCycle: "h23",
  });

  function tick(at) {
    const time = hour.format(at * 1000);
    return time === "00:00" ? day.format(at * 1000) : time;
  }

  // Charts ----------------------------------------------------------------------------------------

  const charts = new Map();
  const DASHES = {
    ready: [], scheduled: [7, 4], running: [2, 3], p50: [], p95: [7, 4], p99: [2, 3],
  };

  function colour(name) {
    const named = {successful: "done"}[name] || name;
    return getComputedStyle(root).getPropertyValue(`--dt-${named}`).trim() || "gray";
  }

  function zoned(at) {
    try {
      return uPlot.tzDate(new Date(at * 1000), state.zone);
    } catch {
      return new Date(at * 1000);
    }
  }

  // What uPlot is given: of a stack, the sums from the last line up, the greatest drawn first.
  function columns(chart) {
    const lines = chart.series.map((line) => line.values);
    if (chart.kind === "stack") {
      const sums = [];
      let below = state.times.map(() => 0);
      for (const values of lines.reverse()) {
        below = values.map((value, at) => value === null ? null : below[at] + value);
        sums.unshift(below);
      }
      return [state.times, ...sums];
    }
    const least = chart.kind === "times" ? 1e-4 : -Infinity;  // a logarithm has no zero
    return [state.times, ...lines.map((values) =>
      values.map((value) => value === null ? null : Math.max(value, least)))];
  }

  // The points of a line without a neighbour: no line would be drawn there.
  function alone(plot, at) {
    const values = plot.data[at];
    return values.flatMap((value, point) =>
      value != null && values[point - 1] == null && values[point + 1] == null ? [point] : []);
  }

  function drawn(chart) {
    const lines = chart.series.map((line) => ({
      stroke: colour(line.key), width: 1.75, dash: DASHES[line.key],
      scale: chart.kind === "depth" && line.key === "running" ? "right" : "y",
      fill: line.key === "ready" ? `color-mix(in srgb, ${colour("ready")} 15%, transparent)` : null,
      points: {
        size: 6, fill: colour(line.key), filter: (plot, at, all) => all ? null : alone(plot, at),
      },
    }));
    if (chart.kind !== "stack") return lines;
    const paths = uPlot.paths.bars({size: [0.9, 60], align: 1});
    return chart.series.map((line) => ({
      fill: colour(line.key), width: 0, paths, points: {show: false},
    }));
  }

  function axes(chart) {
    const quiet = colour("axis"), grid = {stroke: colour("grid"), width: 1};
    const format = FORMATS[chart.unit];
    const axis = {
      stroke: quiet, grid, ticks: {show: false}, size: 56, gap: 6, font: `11px ${colour("font")}`,
      values: (_, splits) => splits.map((at) => at === null ? "" : format(at)),
    };
    const time = {
      ...axis, size: 26, space: 64, grid: {show: false},
      values: (_, splits) => splits.map(tick),
    };
    // Steps that one digit after the point can tell; jobs are not broken.
    if (chart.unit === "count") axis.incrs = chart.kind === "depth" ? WHOLE : [0.1, 0.2, 0.5, ...WHOLE];
    if (chart.kind === "times") {
      axis.splits = (plot) => plot.scales.y.marks;
      axis.filter = (_, splits) => splits;
    }
    const right = {...axis, scale: "right", side: 1, size: 44, grid: {show: false}};
    return chart.kind === "depth" ? [time, axis, right] : [time, axis];
  }

  function scales(chart) {
    const upTo = (_, least, most) => [0, most > 0 ? most * 1.1 : 1];
    const found = {
      x: {time: true, range: () => [state.times[0], state.times.at(-1) + state.period]},
      y: {range: upTo},
    };
    if (chart.kind === "times") {
      found.y = {distr: 3, range: (plot, least, most) => {
        const low = MARKS.findLastIndex((mark) => mark <= (least || 0.01));
        const high = MARKS.findIndex((mark) => mark >= (most || 1));
        const from = Math.max(0, low), upTo = high < 0 ? MARKS.length - 1 : Math.max(high, from + 1);
        plot.scales.y.marks = MARKS.slice(from, upTo + 1);
        return [MARKS[from], MARKS[upTo]];
      }};
    }
    if (chart.kind === "depth") found.right = {range: upTo};
    return found;
  }

  const WHOLE = Array.from({length: 10}, (_, power) => [1, 2, 5].map((each) => each * 10 ** power)).flat();
  // Times that people think in; each chart shows as many as it needs.
  const MARKS = [1e-4, 1e-3, 0.01, 0.1, 1, 10, 60, 600, 3600, 36000, 86400, 864000];

  // The legend: of all the time, or of the point that is pointed at.
  function legend(figure, chart, at) {
    const format = FORMATS[chart.unit];
    const line = figure.querySelector(".dt-chart__at");
    const text = at === null ? "" : full.format(state.times[at] * 1000);
    if (line.textContent !== text) line.textContent = text;
    morphChildren(figure.querySelector(".dt-legend"), chart.series.map((each) => {
      const value = at === null ? null : each.values[at];
      const figure = at === null ? each.text : value === null ? "\u2013" : format(value);
      return make("li", {class: `dt-key dt-key--${each.key}`, "data-key": each.key},
        make("span", null, each.label), make("strong", null, figure));
    }));
  }

  function draw(chart) {
    const figure = root.querySelector(`.dt-chart[data-key="${chart.key}"]`);
    const box = figure.querySelector(".dt-plot");
    const keys = chart.series.map((line) => line.key).join();
    const kept = charts.get(chart.key);
    box.dataset.empty = chart.series.every((line) => line.values.every((value) => value === null))
      ? texts.no : "";
    if (kept && kept.keys === keys) {
      kept.chart = chart;
      kept.plot.setData(columns(chart));
      legend(figure, chart, kept.plot.cursor.idx ?? null);
      return;
    }
    if (kept) kept.plot.destroy();
    const entry = {chart, keys, plot: null};
    entry.plot = new uPlot({
      width: box.clientWidth, height: box.clientHeight, tzDate: zoned,
      legend: {show: false},
      cursor: {y: false, drag: {x: false, y: false}, sync: {key: "durable-tasks"}, points: {size: 6}},
      series: [{}, ...drawn(chart)],
      axes: axes(chart), scales: scales(chart),
      // To the right: half of the last time's text, which may stand at the very end.
      padding: [8, chart.kind === "depth" ? 0 : 24, 0, 0],
      hooks: {setCursor: [(plot) => legend(figure, entry.chart, plot.cursor.idx ?? null)]},
    }, columns(chart), box);
    charts.set(chart.key, entry);
    legend(figure, chart, null);
  }

  function drawAll() {
    state.charts.forEach(draw);
  }

  function redraw() {
    for (const {plot} of charts.values()) plot.destroy();
    charts.clear();
    drawAll();
  }

  const sizes = new ResizeObserver((entries) => {
    for (const {target} of entries) {
      const entry = charts.get(target.closest(".dt-chart").dataset.key);
      if (entry && target.clientWidth) {
        entry.plot.setSize({width: target.clientWidth, height: target.clientHeight});
      }
    }
  });
  root.querySelectorAll(".dt-plot").forEach((box) => sizes.observe(box));
  new MutationObserver(redraw).observe(document.documentElement, {attributeFilter: ["data-theme"]});
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  return (fresh) => {
    state = fresh;
    drawAll();
  };
}
