/* Line charts over time, in SVG. Charts of one group share the time they show and the moment that is pointed at. */
"use strict";

const Charts = (() => {
  const MARGIN = {top: 10, right: 12, bottom: 22, left: 54};
  const HEIGHT = 170;
  const TIME_STEPS = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400];  // seconds

  /** Round numbers from 0 to at least `most`, about `count` of them. */
  function ticks(most, count = 4) {
    const rough = most / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].find(factor => factor * power >= rough * 0.999) * power;
    const steps = Math.ceil(most / step - 1e-9);
    return Array.from({length: steps + 1}, (_, index) => index * step);
  }

  /** Round times between two, in milliseconds, at most about `count`. */
  function timeTicks(from, to, count) {
    const seconds = (to - from) / 1000 / count;
    const step = (TIME_STEPS.find(candidate => candidate >= seconds) || TIME_STEPS.at(-1)) * 1000;
    const first = Math.ceil(from / step) * step;
    return Array.from({length: Math.max(0, Math.floor((to - first) / step) + 1)}, (_, index) => first + index * step);
  }

  /** Pieces of a line without its gaps: where a value is null, the server was gone, or nothing was asked for long. */
  function pieces(points, key, longestPause) {
    const found = [];
    let last = null;
    for (const point of points) {
      if (point[key] === null) {
        last = null;
        continue;
      }
      if (last === null || point.gap || point.at - last.at > longestPause) found.push([]);
      found.at(-1).push(point);
      last = point;
    }
    return found;
  }

  /** The index of the point nearest to a time. */
  function nearestIndex(points, at) {
    let best = -1;
    points.forEach((point, index) => {
      if (best < 0 || Math.abs(point.at - at) < Math.abs(points[best].at - at)) best = index;
    });
    return best;
  }

  class Group {
    constructor() {
      this.charts = [];
      this.view = {points: [], outages: [], from: 0, to: 1};
      this.pointed = null;  // a time, or null
    }

    show(view) {
      this.view = view;
      this.charts.forEach(chart => chart.draw());
    }

    point(at) {
      this.pointed = at;
      this.charts.forEach(chart => chart.drawPointed());
    }
  }

  class LineChart {
    /** `spec`: title, unit, headless (no series is the main one, whose value stands beside the title), format, series ({key, label, tone, dash?, area?}), least (the smallest height of its axis),
        most (its fixed height), empty (what to say while there is no data). The first series lies on top. */
    constructor(group, spec) {
      Object.assign(this, {group, spec, width: 400});
      group.charts.push(this);
      this.value = Dom.el("span", {class: "chart-value"});
      this.when = Dom.el("span", {class: "chart-when"});
      this.keys = spec.series.map(series => {
        const value = Dom.el("b");
        return {value, element: Dom.el("li", {}, swatch(series), series.label + " ", value)};
      });
      this.canvas = Dom.svg("svg", {class: "chart", height: HEIGHT, tabindex: 0, role: "img"});
      this.empty = Dom.el("p", {class: "chart-empty", hidden: true}, spec.empty || "no data yet");
      this.element = Dom.el("figure", {class: "card chart-card"},
        Dom.el("figcaption", {}, Dom.el("h3", {}, spec.title), this.when, this.value),
        Dom.el("div", {class: "chart-frame"}, this.canvas, this.empty),
        Dom.el("ul", {class: "legend", hidden: spec.series.length < 2}, ...this.keys.map(key => key.element)));
      this.listen();
    }

    listen() {
      new ResizeObserver(([entry]) => {
        this.width = Math.max(160, entry.contentRect.width);
        this.draw();
      }).observe(this.canvas.parentElement);
      const at = event => this.time(event.clientX - this.canvas.getBoundingClientRect().left);
      this.canvas.addEventListener("pointermove", event => this.group.point(at(event)));
      this.canvas.addEventListener("pointerdown", event => this.group.point(at(event)));
      this.canvas.addEventListener("pointerleave", () => this.group.point(null));
      this.canvas.addEventListener("blur", () => this.group.point(null));
      this.canvas.addEventListener("keydown", event => this.key(event));
    }

    key(event) {
      const {points} = this.visible();
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (event.key === "Escape") this.group.point(null);
      if (!step || points.length === 0) return;
      event.preventDefault();
      const pointed = this.group.pointed;
      const index = pointed === null ? points.length - 1 : nearestIndex(points, pointed) + step;
      this.group.point(points[Math.max(0, Math.min(points.length - 1, index))].at);
    }

    visible() {
      const {points, from, to} = this.group.view;
      return {points: points.filter(point => point.at >= from && point.at <= to), from, to};
    }

    x(at) {
      const {from, to} = this.group.view;
      return MARGIN.left + (at - from) / (to - from) * (this.width - MARGIN.left - MARGIN.right);
    }

    time(x) {
      const {from, to} = this.group.view;
      return from + (x - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right) * (to - from);
    }

    y(value) {
      return HEIGHT - MARGIN.bottom - Math.min(1, value / this.top) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    }

    draw() {
      const {spec, width} = this, {points, from, to} = this.visible();
      const values = points.flatMap(point => spec.series.map(series => point[series.key])).filter(value => value !== null);
      const marks = ticks(spec.most || Math.max(spec.least || 1, ...values));
      this.top = marks.at(-1);
      const bottom = HEIGHT - MARGIN.bottom;
      const grid = Dom.svg("g", {class: "grid"}, ...marks.map(mark => Dom.svg("g", {},
        Dom.svg("line", {x1: MARGIN.left, x2: width - MARGIN.right, y1: this.y(mark), y2: this.y(mark)}),
        Dom.svg("text", {x: MARGIN.left - 8, y: this.y(mark) + 4, "text-anchor": "end"}, spec.format(mark)))));
      const times = timeTicks(from, to, width / 90).filter(at => this.x(at) > MARGIN.left + 16 && this.x(at) < width - 28);
      const clock = Dom.svg("g", {class: "clock"}, ...times.map(at =>
        Dom.svg("text", {x: this.x(at), y: HEIGHT - 4, "text-anchor": "middle"},
          Format.clock(at, (to - from) < 300_000))));
      this.pointer = Dom.svg("g", {class: "pointer"});
      this.canvas.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      this.canvas.setAttribute("width", width);
      this.canvas.replaceChildren(...this.outages(bottom), grid, clock, ...this.restarts(points, bottom),
        ...[...spec.series].reverse().flatMap(series => this.lines(series, points, bottom)), this.pointer);
      this.empty.hidden = values.length > 0;
      this.drawPointed();
    }

    outages(bottom) {
      const {outages, from, to} = this.group.view;
      return outages.filter(outage => (outage.to || to) > from && outage.from < to).map(outage => {
        const left = this.x(Math.max(from, outage.from)), right = this.x(Math.min(to, outage.to || to));
        return Dom.svg("rect", {class: "outage", x: left, width: Math.max(1, right - left), y: MARGIN.top,
          height: bottom - MARGIN.top}, Dom.svg("title", {}, "no answer from the server"));
      });
    }

    restarts(points, bottom) {
      return points.filter(point => point.restarted).map(point => Dom.svg("line", {class: "restart", x1: this.x(point.at),
        x2: this.x(point.at), y1: MARGIN.top, y2: bottom}, Dom.svg("title", {}, "the server was started anew")));
    }

    lines(series, points, bottom) {
      const place = (point) => `${this.x(point.at).toFixed(1)},${this.y(point[series.key]).toFixed(1)}`;
      return pieces(points, series.key, 40_000).flatMap(piece => {
        const path = "M" + piece.map(place).join("L");
        if (piece.length === 1) {
          return [Dom.svg("circle", {class: `dot ${series.tone}`, cx: this.x(piece[0].at), cy: this.y(piece[0][series.key]),
            r: 1.6})];
        }
        const line = Dom.svg("path", {class: `line ${series.tone}`, d: path, "stroke-dasharray": series.dash || null});
        const area = Dom.svg("path", {class: `area ${series.tone}`,
          d: `${path}L${this.x(piece.at(-1).at).toFixed(1)},${bottom}L${this.x(piece[0].at).toFixed(1)},${bottom}Z`});
        return series.area ? [area, line] : [line];
      });
    }

    /** The values at the moment that is pointed at, or the last ones. */
    drawPointed() {
      const {spec} = this, {points} = this.visible();
      const pointed = this.group.pointed;
      const shown = points[pointed === null ? points.length - 1 : nearestIndex(points, pointed)] || null;
      const texts = spec.series.map(series => shown === null || shown[series.key] === null ? Format.NOTHING
        : spec.format(shown[series.key]));
      this.keys.forEach((key, index) => Dom.setText(key.value, texts[index]));
      if (!spec.headless) Dom.setText(this.value, texts[0] === Format.NOTHING ? texts[0] : texts[0] + (spec.unit || ""));
      Dom.setText(this.when, pointed === null || shown === null ? "" : Format.clock(shown.at));
      this.canvas.setAttribute("aria-label", `${spec.title}: ` +
        spec.series.map((series, index) => `${series.label} ${texts[index]}`).join(", "));
      if (!this.pointer) return;
      this.pointer.replaceChildren();
      if (pointed === null || shown === null) return;
      const x = this.x(shown.at);
      this.pointer.append(
        Dom.svg("line", {x1: x, x2: x, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom}),
        ...spec.series.filter(series => shown[series.key] !== null).map(series =>
          Dom.svg("circle", {class: `dot ${series.tone}`, cx: x, cy: this.y(shown[series.key]), r: 4})));
    }
  }

  const swatch = series => Dom.svg("svg", {class: "swatch", width: 18, height: 10, "aria-hidden": "true"},
    Dom.svg("line", {class: `line ${series.tone}`, x1: 1, x2: 17, y1: 5, y2: 5, "stroke-dasharray": series.dash || null}));

  /** A line without axes, as high as its highest value. */
  function sparkline(values, tone, width = 120, height = 28) {
    const most = Math.max(1e-9, ...values.filter(value => value !== null));
    const points = values.map((value, index) => ({at: index, value}));
    const x = at => values.length < 2 ? width : at / (values.length - 1) * (width - 2) + 1;
    const paths = pieces(points, "value", 1).map(piece => Dom.svg("path", {class: `line ${tone}`,
      d: "M" + piece.map(point => `${x(point.at).toFixed(1)},${(height - 2 - point.value / most * (height - 4)).toFixed(1)}`)
        .join("L")}));
    return Dom.svg("svg", {class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true",
      preserveAspectRatio: "none"}, ...paths);
  }

  return {Group, LineChart, sparkline, ticks, timeTicks, pieces};
})();
