/* Thousands of points on a canvas: drawn, found under a pointer or by the arrow keys, moved and enlarged. */
"use strict";

const Scatter = (() => {
  const TONES = ["--map-0", "--map-1", "--map-2", "--map-3", "--map-4", "--map-5", "--map-6", "--map-7"];
  const NEAR = 14;  // pixels
  const EDGE = 28;

  class Plot {
    /** `onPoint` hears the index that is pointed at, or null, and its place; `onChoose` the one that is clicked. */
    constructor(canvas, onPoint, onChoose) {
      Object.assign(this, {canvas, onPoint, onChoose});
      this.places = [];  // x, y of each point, one after the other
      this.groups = [];  // group of each point, a small number
      this.dimmed = () => false;
      this.pointed = this.chosen = null;
      this.near = [];  // neighbours of the chosen one
      this.reset();
      new ResizeObserver(() => this.draw()).observe(canvas);
      this.listen();
    }

    listen() {
      const {canvas} = this;
      let held = null;
      canvas.addEventListener("pointerdown", event => {
        held = {x: event.clientX, y: event.clientY, moved: false};
        canvas.setPointerCapture(event.pointerId);
      });
      canvas.addEventListener("pointermove", event => {
        if (held !== null) {
          const dx = event.clientX - held.x, dy = event.clientY - held.y;
          if (!held.moved && Math.hypot(dx, dy) < 4) return;
          Object.assign(held, {x: event.clientX, y: event.clientY, moved: true});
          this.shift.x += dx;
          this.shift.y += dy;
          this.draw();
        } else {
          this.point(this.under(event));
        }
      });
      canvas.addEventListener("pointerup", event => {
        if (held !== null && !held.moved) this.choose(this.under(event));
        held = null;
      });
      canvas.addEventListener("pointercancel", () => held = null);
      canvas.addEventListener("pointerleave", () => this.point(null));
      canvas.addEventListener("dblclick", event => {
        const box = canvas.getBoundingClientRect();
        this.zoom(2, event.clientX - box.left, event.clientY - box.top);
      });
      canvas.addEventListener("keydown", event => this.key(event));
      canvas.addEventListener("blur", () => this.point(null));
    }

    key(event) {
      const directions = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
      if (directions[event.key]) this.point(this.beside(...directions[event.key]));
      else if (event.key === "Enter" || event.key === " ") this.choose(this.pointed);
      else if (event.key === "Escape") this.choose(null);
      else if (event.key === "+") this.zoom(1.5);
      else if (event.key === "-") this.zoom(1 / 1.5);
      else if (event.key === "0") this.reset();
      else return;
      event.preventDefault();
    }

    show(places, groups) {
      this.places = places;
      this.groups = groups;
      this.fit();
      this.draw();
    }

    get length() {
      return this.places.length / 2;
    }

    /** Where the points lie, so that all of them can be seen. */
    fit() {
      this.bounds = {left: Infinity, right: -Infinity, low: Infinity, high: -Infinity};
      for (let index = 0; index < this.length; index++) {
        const x = this.places[2 * index], y = this.places[2 * index + 1];
        this.bounds.left = Math.min(this.bounds.left, x);
        this.bounds.right = Math.max(this.bounds.right, x);
        this.bounds.low = Math.min(this.bounds.low, y);
        this.bounds.high = Math.max(this.bounds.high, y);
      }
    }

    /** Pixels of a point: both axes have one scale, so that distances mean the same in every direction. */
    pixel(index) {
      const {left, right, low, high} = this.bounds, {width, height} = this.size();
      const unit = Math.min((width - 2 * EDGE) / Math.max(right - left, 1e-9), (height - 2 * EDGE) / Math.max(high - low, 1e-9));
      return [width / 2 + ((this.places[2 * index] - (left + right) / 2) * unit * this.scale) + this.shift.x,
        height / 2 - ((this.places[2 * index + 1] - (low + high) / 2) * unit * this.scale) + this.shift.y];
    }

    size() {
      return {width: this.canvas.clientWidth, height: this.canvas.clientHeight};
    }

    zoom(factor, x = this.size().width / 2, y = this.size().height / 2) {
      const {width, height} = this.size(), scale = Math.max(1, Math.min(40, this.scale * factor));
      const by = scale / this.scale;
      this.shift = scale === 1 ? {x: 0, y: 0} : {x: (this.shift.x + width / 2 - x) * by - width / 2 + x,
        y: (this.shift.y + height / 2 - y) * by - height / 2 + y};
      this.scale = scale;
      this.draw();
    }

    reset() {
      this.scale = 1;
      this.shift = {x: 0, y: 0};
      this.draw();
    }

    under(event) {
      const box = this.canvas.getBoundingClientRect();
      return this.closest(event.clientX - box.left, event.clientY - box.top, NEAR);
    }

    closest(x, y, within) {
      let best = null, distance = within;
      for (let index = 0; index < this.length; index++) {
        if (this.dimmed(index)) continue;
        const [px, py] = this.pixel(index), away = Math.hypot(px - x, py - y);
        if (away < distance) [best, distance] = [index, away];
      }
      return best;
    }

    /** The nearest point in a direction; the one in the middle when none is pointed at. */
    beside(dx, dy) {
      if (this.pointed === null) return this.closest(this.size().width / 2, this.size().height / 2, Infinity);
      const [x, y] = this.pixel(this.pointed);
      let best = this.pointed, cost = Infinity;
      for (let index = 0; index < this.length; index++) {
        if (index === this.pointed || this.dimmed(index)) continue;
        const [px, py] = this.pixel(index);
        const along = (px - x) * dx + (py - y) * dy, aside = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
        if (along > 0.01 && along + 2 * aside < cost) [best, cost] = [index, along + 2 * aside];
      }
      return best;
    }

    point(index) {
      if (index === this.pointed) return;
      this.pointed = index;
      this.draw();
      this.onPoint(index, index === null ? null : this.pixel(index));
    }

    choose(index) {
      this.chosen = index;
      this.onChoose(index);
      this.draw();
    }

    draw() {
      const {width, height} = this.size(), ratio = window.devicePixelRatio || 1;
      if (width === 0) return;
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      const paint = this.canvas.getContext("2d");
      paint.scale(ratio, ratio);
      if (!this.length) return;
      const tones = TONES.map(Dom.style), ink = Dom.style("--ink"), card = Dom.style("--card");
      const radius = Math.max(2.4, Math.min(5.5, 60 / Math.sqrt(this.length))) * Math.min(1.6, Math.sqrt(this.scale));
      this.links(paint, ink);
      for (let index = 0; index < this.length; index++) {
        const [x, y] = this.pixel(index);
        if (x < -20 || y < -20 || x > width + 20 || y > height + 20) continue;
        paint.globalAlpha = this.dimmed(index) ? 0.1 : 0.82;
        paint.fillStyle = tones[this.groups[index] % tones.length];
        shape(paint, this.groups[index], x, y, radius);
        paint.fill();
      }
      paint.globalAlpha = 1;
      for (const index of new Set([...this.near, this.chosen, this.pointed])) {
        if (index === null || index >= this.length) continue;
        const [x, y] = this.pixel(index), strong = index === this.chosen || index === this.pointed;
        paint.lineWidth = strong ? 2.5 : 1.5;
        shape(paint, this.groups[index], x, y, radius + (strong ? 4 : 2));
        paint.fillStyle = card;
        paint.fill();
        paint.strokeStyle = ink;
        paint.stroke();
        paint.fillStyle = tones[this.groups[index] % tones.length];
        shape(paint, this.groups[index], x, y, radius);
        paint.fill();
      }
    }

    links(paint, ink) {
      if (this.chosen === null || this.chosen >= this.length) return;
      paint.strokeStyle = ink;
      paint.globalAlpha = 0.35;
      for (const index of this.near) {
        paint.beginPath();
        paint.moveTo(...this.pixel(this.chosen));
        paint.lineTo(...this.pixel(index));
        paint.stroke();
      }
    }
  }

  /** Groups differ in colour and in shape, so that they can be told apart without colours. */
  function shape(paint, group, x, y, radius) {
    paint.beginPath();
    const corners = {1: [4, 0.785], 2: [3, -1.571], 3: [4, 0], 4: [3, 1.571], 5: [5, -1.571], 6: [6, 0]}[group % 8];
    if (!corners) {
      paint.arc(x, y, radius, 0, 7);
      return;
    }
    const [count, turn] = corners;
    for (let corner = 0; corner < count; corner++) {
      const angle = turn + corner * 2 * Math.PI / count;
      paint.lineTo(x + 1.2 * radius * Math.cos(angle), y + 1.2 * radius * Math.sin(angle));
    }
    paint.closePath();
  }

  return {Plot, TONES, shape};
})();
