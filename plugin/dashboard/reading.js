/* What the page knows of a status reply: the only file that names its keys. A key that an older server does not send
   becomes null, which the page shows as "no data". */
"use strict";

const Reading = (() => {
  const POOLING = ["NONE", "REDUCE_MAX", "REDUCE_MEAN", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN", "CLS_POOLED",
    "CLASSIFICATION", "REGRESSION", "REDUCE_MEAN_SQRT_LEN", "WEIGHTED_MEAN"];

  /** Keys that change by themselves; all others are configuration. */
  const LIVE = new Set(["statistic", "queue", "counts", "workers", "histograms", "outcomes", "tokens",
    "tokens_per_second", "client", "status", "server_current_time", "ready", "num_process"]);

  /** One look at a server. `at` is when, in milliseconds. */
  function read(status, at) {
    const statistic = status.statistic, queue = status.queue, counts = status.counts;
    return {
      at,
      started: status.server_start_time,
      uptime: seconds(status.server_current_time) - seconds(status.server_start_time),
      ready: known(status.ready, true),
      model: known(status.model_name, "a model"),
      version: known(status.bert_serving_version, status.server_version),
      requests: statistic.num_data_request,
      sentences: statistic.num_total_seq,
      commands: statistic.num_sys_request,
      clients: known(statistic.num_active_client),
      clientsEver: known(statistic.num_total_client),
      queue: queue ? {requests: queue.requests, sentences: queue.sentences, seconds: queue.seconds, bytes: queue.bytes,
        held: queue.held_bytes} : null,
      counts: counts || null,
      batchSize: known(status.max_batch_size),
      // Of the original's servers only the option is known; of ours who is there, other hosts' workers included.
      numWorker: status.workers ? status.workers.length : known(status.num_worker),
      workers: status.workers ? status.workers.map((worker, place) => ({
        slot: known(worker.slot, place), isRemote: known(worker.remote, false), host: known(worker.host),
        state: worker.state, device: worker.device, jobs: worker.jobs, sentences: worker.sentences,
        restarts: worker.restarts, out: worker.out,
      })) : null,
      failures: status.outcomes ? failures(status.outcomes) : null,
      tokens: status.tokens ? status.tokens.computed : null,
      latency: histogram(status, "answering_seconds"),
      waiting: histogram(status, "waiting_seconds"),
      tokenizing: histogram(status, "tokenizing_seconds"),
      computing: histogram(status, "computing_seconds"),
    };
  }

  const known = (value, otherwise = null) => value === undefined ? otherwise : value;

  /** Of "2026-01-31 12:00:00.123456", a time without a zone: only differences mean something. */
  const seconds = text => Date.parse(String(text).replace(" ", "T").slice(0, 23) + "Z") / 1000;

  /** One of the server's histograms of seconds, as {bounds, counts, sum} in milliseconds; null if it keeps none. */
  function histogram(status, name) {
    const found = status.histograms && status.histograms[name];
    return found ? {bounds: found.bounds.map(bound => bound * 1000), counts: found.counts, sum: found.sum * 1000} : null;
  }

  /** How many requests ended with which error: [[code, requests]]. */
  const failures = outcomes => Object.entries(outcomes).filter(([outcome]) => outcome !== "ok" && outcome !== "abandoned")
    .map(([outcome, {requests}]) => [outcome, requests]);

  /** How a value that means something to a program only is told to a person. */
  const IN_WORDS = {
    pooling_strategy: value => POOLING[value] || value,
    tensorflow_version: value => value.join("."),
  };

  /** Name -> value of everything that stays as it was when the server started. */
  function configuration(status) {
    return Object.fromEntries(Object.entries(status).filter(([key]) => !LIVE.has(key))
      .map(([key, value]) => [key, IN_WORDS[key] ? IN_WORDS[key](value) : value]));
  }

  return {read, configuration};
})();
