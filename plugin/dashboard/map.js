/* The vector map: lines are encoded batch by batch, and seen where their vectors lie. */
"use strict";

const VectorMap = (() => {
  const LANES = 2;  // batches under way at the same time
  const TRIES = 3;

  class View {
    /** `server` gives the address to ask. */
    constructor(server) {
      this.server = server;
      this.run = null;
      this.plot = new Scatter.Plot(Dom.byId("map"), (index, place) => this.hover(index, place), index => this.choose(index));
      this.clear();
      this.listen();
    }

    listen() {
      const on = (id, event, handle) => Dom.byId(id).addEventListener(event, handle);
      on("map-form", "submit", event => {
        event.preventDefault();
        this.encode(Lines.parse(Dom.byId("map-text").value));
      });
      on("map-text", "input", () => this.countLines());
      on("map-sample", "click", () => this.take(Samples.TEXT));
      on("map-file", "change", event => this.read(event.target.files[0]));
      on("map-drop", "dragover", event => event.preventDefault());
      on("map-drop", "drop", event => {
        if (!event.dataTransfer.files.length) return;
        event.preventDefault();
        this.read(event.dataTransfer.files[0]);
      });
      on("map-cancel", "click", () => this.run && this.run.abort());
      on("map-again", "click", () => this.encode({lines: this.failed.flat(), dropped: 0}, true));
      on("map-find", "input", () => this.find());
      on("map-in", "click", () => this.plot.zoom(1.5));
      on("map-out", "click", () => this.plot.zoom(1 / 1.5));
      on("map-fit", "click", () => this.plot.reset());
      this.countLines();
    }

    take(text) {
      Dom.byId("map-text").value = text;
      this.countLines();
    }

    async read(file) {
      if (file) this.take(await file.text());
    }

    countLines() {
      const {lines, dropped} = Lines.parse(Dom.byId("map-text").value);
      Dom.setText(Dom.byId("map-count"), lines.length === 0 ? "nothing yet" :
        Format.counted(lines.length, "line") + (dropped ? `; ${Format.count(dropped)} more are left out` : ""));
      Dom.byId("map-start").disabled = lines.length === 0;
    }

    clear() {
      this.projection = new Pca.Projection();
      this.names = [];  // of the groups that have colours
      this.shown = [];  // the lines in the order of the projection's rows
      this.failed = [];
      this.plot.chosen = this.plot.pointed = null;
      this.plot.near = [];
      this.draw();
    }

    /** Encode lines and show them; in addition to those that are there, or in their place. */
    async encode({lines, dropped}, inAddition = false) {
      if (this.run) this.run.abort();
      if (!inAddition) this.clear();
      // All labels are known before the first vector comes: no point changes its colour while others arrive.
      this.names = Lines.groups([...this.shown, ...lines]);
      this.failed = [];
      this.problems();
      this.choose(null);
      const run = this.run = new AbortController();
      const batches = Lines.batches(lines), begin = performance.now();
      const progress = {done: 0, failed: 0, total: lines.length, dropped};
      let next = 0, unreachable = 0;
      this.busy(true);
      const lane = async () => {
        while (next < batches.length && !run.signal.aborted) {
          const batch = batches[next++];
          try {
            this.add(batch, (await this.patiently(batch, run.signal)).vectors);
            unreachable = 0;
            progress.done += batch.length;
          } catch (error) {
            if (run.signal.aborted) return;
            this.failed.push(batch);
            progress.failed += batch.length;
            this.problem(batch, error);
            // Where nothing answers, the other batches would only take as long to fail.
            if (error.kind !== "refused" && ++unreachable >= LANES) run.abort(error);
          }
          this.progress(progress, performance.now() - begin);
        }
      };
      this.progress(progress, 0);
      await Promise.all(Array.from({length: LANES}, lane));
      if (run !== this.run) return;
      await this.settle(run);
      if (run !== this.run) return;
      this.run = null;
      this.busy(false);
      this.ended(progress, run.signal.aborted, performance.now() - begin);
    }

    async patiently(batch, signal) {
      for (let attempt = 1; ; attempt++) {
        try {
          return await Api.encode(this.server(), batch.map(line => line.text), {signal, id: batch[0].number});
        } catch (error) {
          if (signal.aborted || attempt === TRIES || !error.mayPass) throw error;
          await new Promise(resolve => setTimeout(resolve, 1000 * (error.retryAfter || attempt)));
        }
      }
    }

    add(batch, vectors) {
      const good = batch.map((line, index) => ({line, vector: vectors[index]}))
        .filter(({vector}) => vector.length > 0 && vector.every(Number.isFinite));
      this.shown.push(...good.map(({line}) => line));
      this.projection.add(good.map(({vector}) => vector));
      this.projection.improve(40);
      this.draw();
    }

    /** Let the projection come to rest, a little at a time so that the page stays quick. */
    async settle(run) {
      while (run === this.run && !this.projection.improve(30)) await new Promise(resolve => setTimeout(resolve));
      this.draw();
    }

    draw() {
      this.plot.show(this.projection.coordinates(), this.shown.map(line => Lines.groupOf(line, this.names)));
      Dom.byId("map-empty").hidden = this.shown.length > 0;
      this.legend();
    }

    legend() {
      const [across, up] = this.projection.explained();
      Dom.setText(Dom.byId("map-axes"), this.shown.length < 3 ? "" :
        `Across: ${Format.percent(across)} of the variance; up: ${Format.percent(up)}.`);
      const key = JSON.stringify(this.names);
      if (key === this.legendKey) return;
      this.legendKey = key;
      const some = this.names.length > 1 || this.names[0];
      Dom.byId("map-legend").replaceChildren(...some ? this.names.map((name, group) => {
        const canvas = Dom.el("canvas", {width: 32, height: 32, class: "key", "aria-hidden": "true"});
        drawKey(canvas, group);
        return Dom.el("li", {}, canvas, name === null ? "other" : name || "no label");
      }) : []);
    }

    /** Colours changed. */
    repaint() {
      this.legendKey = null;
      this.draw();
    }

    // ---- what it says ------------------------------------------------------------------------------------------------

    busy(is) {
      Dom.byId("map-cancel").hidden = !is;
      Dom.byId("map-start").hidden = is;
      Dom.byId("map-progress-box").hidden = false;
    }

    progress({done, failed, total}, ms) {
      const bar = Dom.byId("map-progress");
      bar.max = Math.max(1, total);
      bar.value = done + failed;
      const rate = ms > 0 && done > 0 ? `, ${Format.short(done / ms * 1000)} lines/s` : "";
      Dom.setText(Dom.byId("map-note"), `${Format.count(done)} of ${Format.count(total)} encoded${rate}`);
    }

    ended({done, failed, total, dropped}, aborted, ms) {
      const parts = [`${Format.count(done)} of ${Format.counted(total, "line")} encoded in ${Format.milliseconds(ms)}`];
      if (aborted && !failed) parts.push("stopped");
      if (failed) parts.push(`${Format.count(failed)} failed`);
      if (dropped) parts.push(`${Format.count(dropped)} over the limit of ${Format.count(Lines.MOST)} were left out`);
      Dom.setText(Dom.byId("map-note"), parts.join("; ") + ".");
      Dom.byId("map-again").hidden = this.failed.length === 0;
    }

    problems() {
      Dom.byId("map-problems").replaceChildren();
      Dom.byId("map-again").hidden = true;
    }

    problem(batch, error) {
      Dom.byId("map-problems").append(Dom.el("li", {},
        `Lines ${batch[0].number} to ${batch.at(-1).number}: ${error.message}.`));
    }

    hover(index, place) {
      const tip = Dom.byId("map-tip");
      tip.hidden = index === null;
      if (index === null) return;
      const line = this.shown[index];
      Dom.setText(tip.querySelector("b"), line.label);
      Dom.setText(tip.querySelector("span"), line.text);
      const frame = Dom.byId("map").getBoundingClientRect();
      tip.style.left = `${Math.max(4, Math.min(frame.width - tip.offsetWidth - 4, place[0] - tip.offsetWidth / 2))}px`;
      const above = place[1] - tip.offsetHeight - 14;
      tip.style.top = `${above > 4 ? above : place[1] + 16}px`;
    }

    choose(index) {
      const box = Dom.byId("map-near");
      box.hidden = index === null;
      this.plot.near = [];
      if (index === null) {
        this.plot.chosen = null;
        return;
      }
      const neighbours = Pca.nearest(this.projection.rows, index, 5);
      this.plot.near = neighbours.map(neighbour => neighbour.index);
      Dom.setText(Dom.byId("map-chosen"), this.shown[index].text);
      Dom.byId("map-neighbours").replaceChildren(...neighbours.map(neighbour => Dom.el("li", {},
        Dom.el("b", {}, neighbour.cosine.toFixed(3).replace("-", "−")), " ", this.shown[neighbour.index].text)));
    }

    find() {
      const wanted = Dom.byId("map-find").value.trim().toLowerCase();
      this.plot.dimmed = wanted === "" ? () => false : index =>
        !`${this.shown[index].label} ${this.shown[index].text}`.toLowerCase().includes(wanted);
      this.plot.draw();
      Dom.setText(Dom.byId("map-found"), wanted === "" ? "" :
        `${Format.count(this.shown.filter((_, index) => !this.plot.dimmed(index)).length)} found`);
    }
  }

  function drawKey(canvas, group) {
    const paint = canvas.getContext("2d");
    paint.fillStyle = Dom.style(Scatter.TONES[group]);
    Scatter.shape(paint, group, 16, 16, 10);
    paint.fill();
  }

  return {View};
})();
