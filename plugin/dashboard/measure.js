/* From counters to rates: what happened between two looks at a server, and the history of that. Pure. */
"use strict";

const Measure = (() => {
  const CAPACITY = 720;

  /** The point that a chart shows for the time between two readings; null for what cannot be known.

      `before` is null at the first look; after a restart the counters begin again, and nothing is known either. */
  function between(before, now) {
    const point = {
      at: now.at, encoded: null, arrived: null, requests: null, tokens: null, fill: null,
      p50: null, p95: null, p99: null, waitingMs: null, tokenizingMs: null, computingMs: null,
      waiting: now.queue && now.queue.sentences, waitSeconds: now.queue && now.queue.seconds,
      clients: now.clients, workers: (now.workers || []).map(() => null),
      restarted: before !== null && before.started !== now.started,
    };
    if (before === null || point.restarted || now.at <= before.at) return point;
    const elapsed = (now.at - before.at) / 1000;
    const rate = (new_, old) => new_ >= old ? (new_ - old) / elapsed : null;
    point.arrived = rate(now.sentences, before.sentences);
    point.requests = rate(now.requests, before.requests);
    if (now.workers && before.workers && now.workers.length === before.workers.length) {
      point.workers = now.workers.map((worker, slot) => rate(worker.sentences, before.workers[slot].sentences));
      point.encoded = point.workers.includes(null) ? null : sum(point.workers);
      point.fill = fill(before, now);
    }
    if (now.tokens !== null && before.tokens !== null) point.tokens = rate(now.tokens, before.tokens);
    for (const stage of ["waiting", "tokenizing", "computing"]) point[stage + "Ms"] = mean(now[stage], before[stage]);
    if (now.latency && before.latency) {
      const counts = difference(now.latency, before.latency);
      [point.p50, point.p95, point.p99] = [0.5, 0.95, 0.99].map(part => quantile(now.latency.bounds, counts, part));
    }
    return point;
  }

  const sum = numbers => numbers.reduce((total, number) => total + number, 0);

  /** Mean share of a batch that was filled; null if no batch was run. */
  function fill(before, now) {
    const jobs = sum(now.workers.map(worker => worker.jobs)) - sum(before.workers.map(worker => worker.jobs));
    const sentences = sum(now.workers.map(worker => worker.sentences)) -
      sum(before.workers.map(worker => worker.sentences));
    return jobs > 0 && sentences >= 0 && now.batchSize ? Math.min(1, sentences / jobs / now.batchSize) : null;
  }

  /** What each bucket got between two looks at a histogram; all of it, if the buckets are not the same ones. */
  function difference(now, before) {
    const same = now.counts.length === before.counts.length &&
      now.counts.every((count, bucket) => count >= before.counts[bucket]);
    return same ? now.counts.map((count, bucket) => count - before.counts[bucket]) : now.counts;
  }

  /** The mean of what a histogram got between two looks; null if it got nothing. */
  function mean(now, before) {
    if (!now || !before) return null;
    const count = sum(now.counts) - sum(before.counts);
    return count > 0 ? Math.max(0, now.sum - before.sum) / count : null;
  }

  /** The value below which `part` of the counted ones lie, interpolated in its bucket; null if none was counted.

      `counts[i]` are the ones at most `bounds[i]` and above `bounds[i - 1]`; one more count is for those above all
      bounds, of which no more is known than that: they get the last bound. */
  function quantile(bounds, counts, part) {
    const total = sum(counts);
    if (total === 0) return null;
    let below = 0;
    for (let bucket = 0; bucket < bounds.length; bucket++) {
      if (counts[bucket] > 0 && below + counts[bucket] >= part * total) {
        const low = bucket === 0 ? 0 : bounds[bucket - 1];
        return low + (bounds[bucket] - low) * (part * total - below) / counts[bucket];
      }
      below += counts[bucket];
    }
    return bounds.at(-1);
  }

  /** The last points, and when the server was gone, in bounded memory. */
  class History {
    constructor(capacity = CAPACITY) {
      this.capacity = capacity;
      this.points = [];
      this.outages = [];  // {from, to}; to is null while it lasts
    }

    add(point) {
      const outage = this.outages.at(-1);
      point.gap = Boolean(outage && outage.to === null);  // no line leads here from the point before
      if (point.gap) outage.to = point.at;
      this.points.push(point);
      if (this.points.length > this.capacity) this.points.splice(0, this.points.length - this.capacity);
      this.outages = this.outages.filter(({to}) => to === null || to >= this.points[0].at);
    }

    /** The server did not answer at `at`. */
    gone(at) {
      const outage = this.outages.at(-1);
      if (!outage || outage.to !== null) this.outages.push({from: this.points.length ? this.points.at(-1).at : at, to: null});
    }

    get last() {
      return this.points.length ? this.points.at(-1) : null;
    }
  }

  return {CAPACITY, between, quantile, History};
})();
