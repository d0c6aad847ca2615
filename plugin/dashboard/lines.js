/* From pasted text to lines with labels, and from lines to batches. Pure. */
"use strict";

const Lines = (() => {
  const MOST = 5000, BATCH = 64, GROUPS = 8;

  /** {lines: [{text, label, number}], dropped}; `label<TAB>text` gives a label, blank lines are left out. */
  function parse(text) {
    const all = text.split(/\r\n|\r|\n/).map((line, index) => {
      const tab = line.indexOf("\t");
      const label = tab > 0 ? line.slice(0, tab).trim() : "";
      return {text: (label ? line.slice(tab + 1) : line).trim(), label, number: index + 1};
    }).filter(line => line.text !== "");
    return {lines: all.slice(0, MOST), dropped: Math.max(0, all.length - MOST)};
  }

  /** The lines cut into batches, in order. */
  function batches(lines, size = BATCH) {
    return Array.from({length: Math.ceil(lines.length / size)}, (_, index) => lines.slice(index * size, (index + 1) * size));
  }

  /** Names of at most GROUPS groups, the most frequent labels first; what is over them is "other". */
  function groups(lines) {
    const counted = new Map();
    for (const {label} of lines) counted.set(label, (counted.get(label) || 0) + 1);
    const labels = [...counted].sort((one, other) => other[1] - one[1]).map(([label]) => label);
    return labels.length <= GROUPS ? labels : [...labels.slice(0, GROUPS - 1), null];
  }

  /** The group of a line, by its place among the names. */
  function groupOf(line, names) {
    const index = names.indexOf(line.label);
    return index < 0 ? names.length - 1 : index;
  }

  return {MOST, BATCH, parse, batches, groups, groupOf};
})();
