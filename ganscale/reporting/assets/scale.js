"use strict";

/** Axes: ticks at round values, positions of values, numbers as people write them. Pure functions, no page. */
const Scale = (() => {
  /** Round numbers that cover [low, high] in about `count` steps. */
  function roundTicks(low, high, count) {
    const rough = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.75);
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) {
      ticks.push(i * step);
    }
    return ticks;
  }

  /** A linear scale from [low, high] to [from, to] pixels; equal ends are widened. */
  function linear(low, high, from, to) {
    const margin = low === high ? Math.abs(low) * 0.1 || 1 : 0;
    const [first, last] = [low - margin, high + margin];
    const at = (value) => from + ((value - first) / (last - first)) * (to - from);
    return { at, ticks: (count) => (margin ? [low] : roundTicks(low, high, count)) };
  }

  /** A logarithmic scale, 0 < low <= high; ticks are powers of ten, or 1-2-5 where there are few. */
  function logarithmic(low, high, from, to) {
    const margin = low === high ? 2 : 1;
    const inner = linear(Math.log10(low / margin), Math.log10(high * margin), from, to);
    const ticks = (count) => {
      const first = Math.floor(Math.log10(low));
      const last = Math.ceil(Math.log10(high));
      const every = Math.max(1, Math.ceil((last - first) / (count + 2)));
      const steps = last - first <= 2 ? [1, 2, 5] : [1];
      const found = [];
      for (let power = first; power <= last; power += every) {
        found.push(...steps.map((step) => step * 10 ** power));
      }
      const inside = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
      if (inside.length > 1 || low === high) return inside.length ? inside : [low];
      return roundTicks(low, high, count);
    };
    return { at: (value) => inner.at(Math.log10(value)), ticks };
  }

  /** Four significant digits. */
  function number(value) {
    if (value === null || value === undefined) return "not finite";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e6 || size < 1e-3) {
      const [digits, power] = value.toExponential(3).split("e");
      return `${Number(digits)}e${Number(power)}`;
    }
    return size >= 1e4 ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(4)));
  }

  /** Short, for axes: 128k, 1.2M, 2e-4. */
  function short(value) {
    const size = Math.abs(value);
    for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (size >= unit) return `${Number((value / unit).toPrecision(3))}${name}`;
    }
    if (size !== 0 && size < 1e-3) return value.toExponential(0).replace("e+", "e");
    return String(Number(value.toPrecision(3)));
  }

  /** Index of the entry of a rising list that is nearest to a value. */
  function nearest(list, value) {
    let low = 0;
    let high = list.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (list[middle] < value) low = middle;
      else high = middle;
    }
    return value - list[low] <= list[high] - value ? low : high;
  }

  return { linear, logarithmic, number, short, nearest };
})();
