/* Principal components of vectors that arrive bit by bit, by power iteration on the vectors themselves: no matrix is
   made of them, and each round begins from the last one's directions, so that a picture moves little when it grows. */
"use strict";

const Pca = (() => {
  const ENOUGH = 1e-7;  // how far from 1 the cosine of old and new direction may be
  const MAX_ROUNDS = 300;

  class Projection {
    constructor() {
      this.rows = [];
      this.total = null;  // sum of all rows
      this.squares = 0;  // sum of their squared lengths
      this.directions = [];
      this.rounds = 0;  // since a row was added
      this.settled = true;
    }

    get dimensions() {
      return this.total === null ? 0 : this.total.length;
    }

    add(rows) {
      for (const row of rows) {
        if (this.total === null) {
          this.total = new Float64Array(row.length);
          this.directions = [start(row.length, 1), start(row.length, 2)];
        }
        for (let i = 0; i < row.length; i++) {
          this.total[i] += row[i];
          this.squares += row[i] * row[i];
        }
        this.rows.push(row);
      }
      this.settled = this.rows.length < 2;
      this.rounds = 0;
    }

    get mean() {
      return this.total.map(value => value / this.rows.length);
    }

    /** Iterate until the directions stand or the time is over; whether they stand. */
    improve(budgetMs) {
      const until = performance.now() + budgetMs;
      while (!this.settled) {
        this.settled = this.round() || ++this.rounds >= MAX_ROUNDS;
        if (performance.now() > until) break;
      }
      return this.settled;
    }

    /** One step of both directions; whether neither moved. */
    round() {
      const [u, v] = this.directions, mean = this.mean;
      const uMean = dot(mean, u), vMean = dot(mean, v);
      const a = new Float64Array(u.length), b = new Float64Array(u.length);
      for (const row of this.rows) {
        const p = dot(row, u) - uMean, q = dot(row, v) - vMean;
        for (let i = 0; i < row.length; i++) {
          const centred = row[i] - mean[i];
          a[i] += p * centred;
          b[i] += q * centred;
        }
      }
      normalize(a);
      const shared = dot(a, b), before = Math.sqrt(dot(b, b));
      for (let i = 0; i < b.length; i++) b[i] -= shared * a[i];
      // What is left of a direction that does not exist is rounding.
      if (Math.sqrt(dot(b, b)) < 1e-9 * before) b.fill(0);
      normalize(b);
      this.directions = [a, b];
      return unmoved(u, a) && unmoved(v, b);
    }

    /** x and y of every row, one after the other. */
    coordinates() {
      const places = new Float64Array(this.rows.length * 2);
      if (this.rows.length === 0) return places;
      const mean = this.mean;
      const offsets = this.directions.map(direction => dot(mean, direction));
      this.rows.forEach((row, index) => {
        places[2 * index] = dot(row, this.directions[0]) - offsets[0];
        places[2 * index + 1] = dot(row, this.directions[1]) - offsets[1];
      });
      return places;
    }

    /** The share of the vectors' variance that each direction shows. */
    explained() {
      const all = this.rows.length ? this.squares - dot(this.mean, this.mean) * this.rows.length : 0;
      const places = this.coordinates(), shown = [0, 0];
      places.forEach((place, index) => shown[index % 2] += place * place);
      return shown.map(one => all > 1e-12 ? Math.min(1, one / all) : 0);
    }
  }

  /** A direction that is the same every time and orthogonal to nothing in particular. */
  function start(length, seed) {
    let state = seed * 2654435761 >>> 0;
    const direction = Float64Array.from({length}, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32 - 0.5;
    });
    normalize(direction);
    return direction;
  }

  function dot(a, b) {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
    return sum;
  }

  function normalize(vector) {
    const length = Math.sqrt(dot(vector, vector));
    if (length > 0) for (let i = 0; i < vector.length; i++) vector[i] /= length;
  }

  function unmoved(old, fresh) {
    const length = dot(fresh, fresh);
    return length === 0 || Math.abs(dot(old, fresh)) > 1 - ENOUGH;
  }

  /** Of two vectors; null where one of them has no direction. */
  function cosine(a, b) {
    const lengths = Math.sqrt(dot(a, a) * dot(b, b));
    return lengths > 0 ? Math.max(-1, Math.min(1, dot(a, b) / lengths)) : null;
  }

  /** The `most` rows nearest in direction to `rows[index]`, best first: [{index, cosine}]. */
  function nearest(rows, index, most) {
    return rows.map((row, other) => ({index: other, cosine: other === index ? null : cosine(rows[index], row)}))
      .filter(neighbour => neighbour.cosine !== null)
      .sort((one, other) => other.cosine - one.cosine).slice(0, most);
  }

  return {Projection, cosine, nearest};
})();
