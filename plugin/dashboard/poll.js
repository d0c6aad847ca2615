/* Asking again and again: often while somebody looks, seldom while nobody does, and patiently while nothing answers. */
"use strict";

const Poll = (() => {
  const VISIBLE_MS = 2000, HIDDEN_MS = 15_000;
  const GONE_MS = [1000, 2000, 4000, 8000, 10_000];

  /** Milliseconds until the next look, after `failures` in a row. */
  function pause(failures, hidden) {
    const ms = failures === 0 ? VISIBLE_MS : GONE_MS[Math.min(failures, GONE_MS.length) - 1];
    return hidden ? Math.max(ms, HIDDEN_MS) : ms;
  }

  class Poller {
    /** `ask` gives a promise; its value goes to `onAnswer`, its error to `onFailure`. */
    constructor(ask, onAnswer, onFailure) {
      Object.assign(this, {ask, onAnswer, onFailure});
      this.failures = 0;
      this.nextAt = null;  // when the next look is, in milliseconds; null while one is under way
      this.timer = null;
      this.round = 0;  // of an earlier round nothing is heard any more
      document.addEventListener("visibilitychange", () => document.hidden || this.now());
      window.addEventListener("online", () => this.now());
    }

    /** Look at once, whatever was planned. */
    async now() {
      clearTimeout(this.timer);
      const round = ++this.round;
      const begin = Date.now();
      this.nextAt = null;
      try {
        const answer = await this.ask();
        if (round !== this.round) return;
        this.failures = 0;
        this.onAnswer(answer);
      } catch (error) {
        if (round !== this.round) return;
        this.failures++;
        this.onFailure(error);
      }
      const wait = Math.max(250, pause(this.failures, document.hidden) - (Date.now() - begin));
      this.nextAt = Date.now() + wait;
      this.timer = setTimeout(() => this.now(), wait);
    }
  }

  return {Poller, pause};
})();
