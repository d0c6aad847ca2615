/* Numbers and times as a person reads them. `null` is "no data", shown as a dash. */
"use strict";

const Format = (() => {
  const NOTHING = "–";

  const count = value => value === null ? NOTHING : Math.round(value).toLocaleString("en");

  /** "1 line", "2 lines". */
  const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

  /** Three digits that matter: 0.42, 7.3, 128, 12.4k, 3.1M. */
  function short(value) {
    if (value === null) return NOTHING;
    const size = Math.abs(value);
    for (const [unit, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (size >= unit * (letter === "k" ? 10 : 1)) return digits(value / unit) + letter;
    }
    return size >= 1000 ? count(value) : digits(value);
  }

  function digits(value) {
    const size = Math.abs(value);
    if (size >= 99.95 || Number.isInteger(value)) return value.toFixed(0);
    return size >= 9.995 ? value.toFixed(1) : value.toFixed(size < 0.995 ? 2 : 1);
  }

  const percent = share => share === null ? NOTHING : digits(Math.round(share * 1000) / 10) + " %";

  function milliseconds(value) {
    if (value === null) return NOTHING;
    return value >= 1000 ? digits(value / 1000) + " s" : digits(value) + " ms";
  }

  function bytes(value) {
    if (value === null) return NOTHING;
    for (const [unit, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
      if (value >= unit) return `${digits(value / unit)} ${name}`;
    }
    return `${value} B`;
  }

  /** 42 s, 3 min 20 s, 5 h 12 min, 3 d 4 h. */
  function duration(seconds) {
    if (seconds === null) return NOTHING;
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor(whole % 3600 / 60)} min`;
    return `${Math.floor(whole / 86400)} d ${Math.floor(whole % 86400 / 3600)} h`;
  }

  const clock = (ms, withSeconds = true) => new Date(ms).toLocaleTimeString("en-GB", {
    hour: "2-digit", minute: "2-digit", ...(withSeconds ? {second: "2-digit"} : {}),
  });

  return {NOTHING, count, counted, short, percent, milliseconds, bytes, duration, clock};
})();
