/* The view that is open most: what the server does now, and what it did in the last minutes. */
"use strict";

const Live = (() => {
  const STATES = {
    ready: {word: "ready", sign: "●"},
    starting: {word: "starting", sign: "◐"},
    leaving: {word: "leaving", sign: "◌"},
    lost: {word: "lost", sign: "✕"},
    stopped: {word: "stopped", sign: "■"},
  };

  const COUNTS = [
    ["accepted", "requests accepted"], ["sent", "answers sent"], ["refused", "requests refused"],
    ["expired", "ran out of time"], ["condemned", "failed: a text kills workers"], ["abandoned", "left by their client"],
    ["dropped", "answers nobody took"], ["held", "answers that waited for their client"],
    ["redispatched", "given to another worker"],
  ];

  const number = value => Format.short(value);

  const CHARTS = [
    {title: "Throughput", unit: " /s", format: number, least: 5, series: [
      {key: "encoded", label: "sentences encoded", tone: "tone-a", area: true},
      {key: "arrived", label: "sentences arrived", tone: "tone-b", dash: "5 3"},
      {key: "requests", label: "requests", tone: "tone-c", dash: "1.5 3"}]},
    {title: "Latency", format: Format.milliseconds, least: 5, fromHistogram: true, empty: "no requests in this time", series: [
      {key: "p50", label: "half within", tone: "tone-a", area: true},
      {key: "p95", label: "95 % within", tone: "tone-b", dash: "5 3"},
      {key: "p99", label: "99 % within", tone: "tone-c", dash: "1.5 3"}]},
    {title: "Where the time goes, on average", headless: true, format: Format.milliseconds, least: 5,
      fromHistogram: true, empty: "no requests in this time", series: [
      {key: "computingMs", label: "model", tone: "tone-a", area: true},
      {key: "waitingMs", label: "waiting", tone: "tone-b", dash: "5 3"},
      {key: "tokenizingMs", label: "tokenizing", tone: "tone-c", dash: "1.5 3"}]},
    {title: "Queue", unit: " sentences", format: number, least: 5, series: [
      {key: "waiting", label: "sentences waiting", tone: "tone-a", area: true}]},
    {title: "Batch fill", format: Format.percent, most: 1, empty: "no batch in this time", series: [
      {key: "fill", label: "of the largest batch", tone: "tone-a", area: true}]},
    {title: "Clients", unit: " active", format: number, least: 4, series: [
      {key: "clients", label: "with a request in the last 3 minutes", tone: "tone-a", area: true}]},
  ];

  class View {
    constructor(history) {
      this.history = history;
      this.minutes = 5;
      this.group = new Charts.Group();
      Dom.byId("charts").append(...CHARTS.map(spec => new Charts.LineChart(this.group, spec).element));
      this.rangeButtons = [...document.querySelectorAll("[data-minutes]")];
      this.rangeButtons.forEach(button => button.addEventListener("click", () => this.range(Number(button.dataset.minutes))));
    }

    range(minutes) {
      this.minutes = minutes;
      this.rangeButtons.forEach(button =>
        button.setAttribute("aria-pressed", String(Number(button.dataset.minutes) === minutes)));
      this.draw(Date.now());
    }

    /** A new look at the server. */
    show(reading, point) {
      for (const chart of this.group.charts.filter(({spec}) => spec.fromHistogram)) {
        Dom.setText(chart.empty, reading.latency === null ? "this server keeps no histogram" : chart.spec.empty);
      }
      this.tiles(reading, point);
      this.workers(reading, point);
      this.counts(reading);
      this.draw(reading.at);
    }

    /** The charts alone, up to a time. */
    draw(now) {
      const {points, outages} = this.history;
      // A short history fills the chart, from a minute on; a long one is cut.
      const first = Math.min(points.length ? points[0].at : now, now - 60_000);
      const from = this.minutes ? Math.max(first, now - this.minutes * 60_000) : first;
      this.group.show({points, outages, from, to: now});
    }

    tiles(reading, point) {
      const ready = reading.workers ? reading.workers.filter(worker => worker.state === "ready").length : null;
      const restarts = reading.workers ? reading.workers.reduce((sum, worker) => sum + worker.restarts, 0) : null;
      this.tile("throughput", number(point.encoded), point.tokens === null ? "no data" : `${number(point.tokens)} tokens/s`);
      this.tile("latency", Format.milliseconds(point.p50), point.p99 === null ? "no data" : `99 % within ${Format.milliseconds(point.p99)}`);
      this.tile("queue", reading.queue ? number(reading.queue.sentences) : Format.NOTHING,
        reading.queue ? reading.queue.sentences ? `about ${Format.duration(Math.ceil(reading.queue.seconds))} of work` : "nothing waits" : "no data");
      this.tile("fill", Format.percent(point.fill), reading.batchSize ? `of ${Format.counted(reading.batchSize, "sentence")}` : "");
      this.tile("clients", Format.count(reading.clients), `${Format.count(reading.clientsEver)} since the start`);
      this.tile("workers", ready === null ? Format.NOTHING : `${ready} of ${reading.numWorker}`,
        restarts === null ? "" : restarts === 0 ? "none was restarted" : Format.counted(restarts, "restart"));
      Dom.byId("tile-workers").classList.toggle("warn", ready !== null && ready < reading.numWorker);
    }

    tile(name, value, note) {
      const tile = Dom.byId(`tile-${name}`);
      Dom.setText(tile.querySelector(".tile-value"), value);
      Dom.setText(tile.querySelector(".tile-note"), note);
    }

    workers(reading, point) {
      const rows = (reading.workers || []).map((worker, place) => {
        const state = STATES[worker.state] || {word: worker.state, sign: "?"};
        const rates = this.history.points.slice(-60).map(past => past.workers[place] ?? null);
        const cell = (label, ...children) => Dom.el("td", {"data-label": label}, ...children);
        return Dom.el("tr", {},
          Dom.el("th", {scope: "row"}, `worker ${worker.slot}`),
          cell("state", Dom.el("span", {class: `state state-${worker.state}`},
            Dom.el("span", {"aria-hidden": "true"}, state.sign), " " + state.word)),
          cell("device", (worker.device < 0 ? "CPU" : `GPU ${worker.device}`)
            + (worker.isRemote ? ` on ${worker.host || "another host"}` : "")),
          cell("sentences/s", Dom.el("span", {class: "rate"}, number(point.workers[place] ?? null),
            Charts.sparkline(rates, "tone-a"))),
          cell("in hand", Format.count(worker.out)),
          cell("jobs", Format.count(worker.jobs)),
          cell("sentences", Format.count(worker.sentences)),
          cell("restarts", Format.count(worker.restarts)));
      });
      Dom.byId("workers").replaceChildren(...rows);
    }

    counts(reading) {
      const known = COUNTS.filter(([key]) => reading.counts && reading.counts[key] !== undefined);
      const rows = [...known.map(([key, label]) => [label, reading.counts[key]]),
        ...(reading.failures || []).map(([code, requests]) => [`ended with “${code}”`, requests])];
      Dom.byId("counts").replaceChildren(...rows.map(([label, value]) => Dom.el("div", {class: value === 0 ? "zero" : null},
        Dom.el("dt", {}, label), Dom.el("dd", {}, Format.count(value)))));
      Dom.setText(Dom.byId("uptime"), Number.isFinite(reading.uptime) ? `up for ${Format.duration(reading.uptime)}` : "");
    }
  }

  return {View};
})();
