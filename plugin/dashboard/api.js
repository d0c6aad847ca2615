/* The calls of a server's HTTP proxy. Each gives the answer's JSON, or throws a Failure that says in words what to do. */
"use strict";

const Api = (() => {
  /** A call that got no good answer.

      kind: "network" (nothing answers), "foreign" (something else answers), "locked" (the proxy wants a key, or another
      one), or "refused" (the proxy answers another error). */
  class Failure extends Error {
    constructor(kind, message, {status = null, retryAfter = null} = {}) {
      super(message);
      Object.assign(this, {kind, status, retryAfter});
    }

    /** Whether the same call may succeed in a moment. */
    get mayPass() {
      return this.kind === "network" || [429, 502, 503, 504].includes(this.status);
    }
  }

  /** The address of a proxy as typed by a person, without a slash at its end.

      Throws a Failure if it is none. */
  function endpoint(text) {
    const typed = text.trim();
    const address = /^[a-z][a-z+.-]*:\/\//i.test(typed) ? typed : "http://" + typed;
    let url;
    try {
      url = new URL(address);
    } catch {
      throw new Failure("foreign", `“${typed}” is no address; expected one like http://localhost:8125`);
    }
    if (url.protocol !== "http:" && url.protocol !== "https:") {
      throw new Failure("foreign", `an address begins with http:// or https://, not ${url.protocol}`);
    }
    return (url.origin + url.pathname).replace(/\/+$/, "");
  }

  /** The key that goes with every call of a server, and with those of no other one: kept until the tab is closed.

      An empty one is forgotten. */
  function setKey(server, key) {
    keys.set(server, key);
    try {
      if (key) sessionStorage.setItem(KEPT + server, key);
      else sessionStorage.removeItem(KEPT + server);
    } catch {
      // a page from a file may have no storage
    }
  }

  function key(server) {
    if (keys.has(server)) return keys.get(server);
    try {
      return sessionStorage.getItem(KEPT + server) || "";
    } catch {
      return "";
    }
  }

  const KEPT = "bert-serving-key ";
  const keys = new Map();

  async function call(server, path, {body = null, timeoutMs, signal = null} = {}) {
    const limit = AbortSignal.timeout(timeoutMs);
    const options = {signal: signal ? AbortSignal.any([signal, limit]) : limit, cache: "no-store", headers: {}};
    if (key(server)) options.headers.Authorization = `Bearer ${key(server)}`;
    if (body !== null) {
      Object.assign(options, {method: "POST", body: JSON.stringify(body)});
      options.headers["Content-Type"] = "application/json";
    }
    let response, text;
    try {
      response = await fetch(server + path, options);
      text = await response.text();
    } catch (error) {
      if (signal && signal.aborted) throw error;
      throw new Failure("network", limit.aborted ? `no answer within ${timeoutMs / 1000} seconds`
        : "no connection; check that it runs with -http_port, and that its -cors allows this page");
    }
    return understood(response, text);
  }

  function understood(response, text) {
    let answer;
    try {
      answer = JSON.parse(text);
    } catch {
      answer = null;
    }
    if (answer === null || typeof answer !== "object") {
      throw new Failure("foreign", `something answers there, but it is not the HTTP port of a bert-as-service ` +
        `(status ${response.status}, no JSON)`, {status: response.status});
    }
    if (!response.ok) {
      const kind = response.status === 401 ? "locked" : "refused";
      throw new Failure(kind, answer.description || (answer.error && answer.error.message) ||
        `status ${response.status}`, {status: response.status, retryAfter: answer.retry_after || null});
    }
    return answer;
  }

  async function status(server) {
    const answer = await call(server, "/status/server", {timeoutMs: 6000});
    if (!answer.statistic) throw new Failure("foreign", "what answers there sends no statistic; it is another service");
    return answer;
  }

  /** Vectors of texts, and how long it took: {vectors, ms}; a sentence of a server that does not pool has a list of vectors. */
  async function encode(server, texts, {signal = null, id = 0} = {}) {
    const begin = performance.now();
    const answer = await call(server, "/encode", {body: {id, texts}, timeoutMs: 120_000, signal});
    const vectors = answer.result || answer.results;
    if (!Array.isArray(vectors) || vectors.length !== texts.length) {
      throw new Failure("foreign", `sent ${Format.counted(texts.length, "text")} and got no list of as many vectors`);
    }
    return {vectors: vectors.map(oneVector), ms: performance.now() - begin};
  }

  /** A sentence's vector; where a server sends one for each token, their mean. */
  function oneVector(row) {
    if (!Array.isArray(row[0])) return Float32Array.from(row, number => number === null ? NaN : number);
    const full = row.filter(token => token.some(number => number !== 0));  // what pads a row is all zeros
    return Float32Array.from(row[0], (_, column) => full.reduce((sum, token) => sum + token[column], 0) / full.length);
  }

  /** The tokens of each text, as {tokens, ids}, where `ids` may be null; null if this server cannot tell. */
  async function tokenize(server, texts) {
    let answer;
    try {
      answer = await call(server, "/tokenize", {body: {texts}, timeoutMs: 10_000});
    } catch (error) {
      // A server without this route refuses the browser's question whether it may ask: that looks like no connection.
      if (error.kind === "network" || error.status === 404 || error.status === 405) return null;
      throw error;
    }
    return Array.isArray(answer.tokens) ? {tokens: answer.tokens, ids: answer.ids || null} : null;
  }

  return {Failure, endpoint, key, setKey, status, encode, tokenize};
})();
