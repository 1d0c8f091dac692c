"use strict";

/** Fills the page's places from its data: charts, sample grids, legends of runs. Tables are in the page already. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const shown = data.runs.map(() => true);
  const several = data.runs.length > 1;
  const ends = [...data.axes.map((axis) => axis.at(-1)), ...data.strips.map((strip) => strip.items.at(-1).images)];
  const longest = ends.reduce((a, b) => Math.max(a, b), 1);
  const paper = matchMedia("print");
  const height = () => (paper.matches ? 180 : 226); // of a chart, in CSS pixels
  const MANY = 10; // curves: from here on a chart's legend names only the one near the pointer
  const DASHES = [undefined, [6, 3], [2, 3], [9, 3, 2, 3]];
  let moment = null;

  /** An HTML element; text never becomes markup. */
  function make(name, attributes, ...content) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...content);
    return element;
  }

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const images = (count) => `${Math.round(count).toLocaleString("en-US")} images`;

  /** Four significant digits. */
  function number(value) {
    const size = Math.abs(value);
    if (size >= 1e4 && size < 1e6) return Math.round(value).toLocaleString("en-US");
    const [digits, power] = value.toExponential(3).split("e");
    return value !== 0 && (size >= 1e6 || size < 1e-3) ? `${Number(digits)}e${Number(power)}` : `${Number(value.toPrecision(4))}`;
  }

  /** Short, for axes: 128k, 1.2M, 2e-4. */
  function short(value) {
    const size = Math.abs(value);
    const [unit, name] = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([one]) => size >= one) ?? [1, ""];
    return size !== 0 && size < 1e-3 ? value.toExponential(0) : `${Number((value / unit).toPrecision(3))}${name}`;
  }

  /** A line chart: curves of several runs, floor, error bars, health events; values by pointer, touch and keys. */
  class Chart {
    constructor(spec) {
      this.spec = spec;
      this.roles = [...new Set(spec.curves.map((curve) => curve.role))];
      this.log = spec.log;
      this.host = make("div", { class: spec.curves.length > MANY ? "plot many" : "plot" });
      const head = make("figcaption", {}, make("h4", {}, spec.title));
      if (spec.curves.every((curve) => curve.y.every((value) => value === null || value > 0))) {
        const button = make("button", { type: "button", "aria-label": `${spec.title}: logarithmic axis` }, "log");
        const press = () => button.setAttribute("aria-pressed", String(this.log));
        button.addEventListener("click", () => {
          this.log = !this.log;
          press();
          this.build();
        });
        press();
        head.append(button);
      }
      const label = `${spec.title}${spec.unit && ` in ${spec.unit}`} over images. Arrow keys read values.`;
      this.root = make("figure", { class: "chart", tabindex: "0", "aria-label": label });
      this.root.append(head, make("p", { class: "note" }, spec.note), this.host);
      this.root.addEventListener("keydown", (event) => this.key(event));
      new ResizeObserver(() => this.fit()).observe(this.host);
    }

    /** Draw everything from scratch: uPlot fixes colors and kinds of axes when it starts. */
    build() {
      const { spec } = this;
      const floor = spec.floor !== null && (!this.log || spec.floor > 0) ? spec.floor : undefined;
      const tables = spec.curves.map((curve) => [data.axes[curve.x], curve.y]);
      const table = uPlot.join([...tables, [[0, longest], [floor, floor]]]);
      const series = [{ label: "images", value: (_, value) => (value === null ? "latest" : value.toLocaleString("en-US")) }];
      series.push(...spec.curves.map((curve) => this.series(curve)));
      if (floor === undefined) table.pop();
      else {
        const look = { stroke: color("quiet"), dash: [2, 4], width: 1.3, points: { show: false } };
        series.push({ label: "floor", value: () => number(floor), ...look });
      }
      const grid = { stroke: color("rule"), width: 1 };
      const axis = { stroke: color("quiet"), grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
      const name = (label) => (label ? { label, labelSize: 16, labelGap: 0, labelFont: axis.font } : {});
      const values = (_, splits) => splits.map((value) => (value === null ? "" : short(value)));
      const points = { fill: (u, i) => u.series[i].stroke(u, i), size: (_, i) => (i > spec.curves.length ? 0 : 6) };
      const focus = { prox: spec.curves.length > MANY ? 30 : -1 };
      const dash = (_, i) => ["solid", "dashed", "dotted"][DASHES.indexOf(series[i].dash)] ?? "dashed";
      this.plot?.destroy();
      this.plot = new uPlot(
        {
          width: this.host.clientWidth || 360,
          height: height(),
          series,
          scales: { x: { time: false }, y: { distr: this.log ? 3 : 1 } },
          axes: [
            { ...axis, ...name("images"), values, size: 26, grid: { show: false } },
            { ...axis, ...name(spec.unit), values, size: 46, gap: 3 },
          ],
          cursor: { y: false, sync: { key: "images" }, focus, points },
          legend: { markers: { width: 2, dash } },
          hooks: {
            drawClear: [(u) => this.marks(u)],
            drawSeries: [(u, i) => this.errors(u, i)],
            setSeries: [(u, i) => this.near(u, i)],
          },
        },
        table,
        this.host,
      );
      this.plot.setLegend({ idx: null });
      this.root.plot = this.plot; // for tests and the console
    }

    /** Color tells runs apart and dashes tell roles apart; of a single run, color tells roles apart. */
    series(curve) {
      const role = this.roles.indexOf(curve.role);
      const dash = DASHES[(several ? role || Math.floor(curve.run / 8) : 0) % 4];
      const axis = data.axes[curve.x];
      const last = curve.y.findLastIndex((value) => value !== null);
      const read = (u, _, __, index) => {
        const i = index === null ? last : axis.indexOf(u.data[0][index]);
        const [value, error] = [curve.y[i] ?? null, curve.errors?.[i] ?? null];
        if (value === null) return "not finite";
        return error === null ? number(value) : `${number(value)} \u00b1 ${Number(error.toPrecision(2))}`;
      };
      return {
        label: [several ? data.runs[curve.run] : "", curve.role].filter(Boolean).join(" \u00b7 ") || this.spec.title,
        value: read,
        stroke: color(`c${(several ? curve.run : role) % 8}`),
        dash,
        width: 1.6,
        points: { fill: color("card") },
        show: shown[curve.run],
      };
    }

    /** Vertical lines: health events of the runs that are shown, and the moment of the sample grids. */
    marks(u) {
      const line = (at, stroke, dash) => {
        const x = Math.round(u.valToPos(at, "x", true)) + 0.5;
        if (x < u.bbox.left || x > u.bbox.left + u.bbox.width + 1) return;
        u.ctx.strokeStyle = stroke;
        u.ctx.setLineDash(dash);
        u.ctx.beginPath();
        u.ctx.moveTo(x, u.bbox.top);
        u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
        u.ctx.stroke();
      };
      u.ctx.save();
      u.ctx.lineWidth = devicePixelRatio;
      for (const event of data.events) if (shown[event.run]) line(event.images, color("bad"), [5, 3]);
      if (moment !== null) line(moment, color("accent"), []);
      u.ctx.restore();
    }

    /** Error bars of one curve. */
    errors(u, index) {
      const curve = this.spec.curves[index - 1];
      if (!curve?.errors || !u.series[index].show) return;
      u.ctx.save();
      u.ctx.beginPath();
      u.ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
      u.ctx.clip();
      u.ctx.beginPath();
      data.axes[curve.x].forEach((at, i) => {
        const [value, error] = [curve.y[i], curve.errors[i]];
        if (value === null || error === null || (this.log && value <= error)) return;
        const x = u.valToPos(at, "x", true);
        u.ctx.moveTo(x, u.valToPos(value - error, "y", true));
        u.ctx.lineTo(x, u.valToPos(value + error, "y", true));
      });
      u.ctx.strokeStyle = u.series[index].stroke(u, index);
      u.ctx.lineWidth = devicePixelRatio;
      u.ctx.stroke();
      u.ctx.restore();
    }

    near(u, index) {
      u.root.querySelectorAll(".u-series").forEach((row, i) => row.classList.toggle("near", i === index));
    }

    key(event) {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
      const xs = this.plot.data[0];
      if (event.key === "Escape") this.plot.setCursor({ left: -10, top: -10 }, true, true);
      if (step === undefined || event.target !== this.root) return;
      event.preventDefault();
      const next = Math.max(0, Math.min(xs.length - 1, (this.plot.cursor.idx ?? xs.length) + step));
      this.plot.setCursor({ left: this.plot.valToPos(xs[next], "x"), top: 20 }, true, true);
    }

    fit() {
      const width = this.host.clientWidth;
      if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: height() });
    }

    /** Show the runs that are shown, and only these. */
    filter() {
      this.spec.curves.forEach((curve, i) => this.plot?.setSeries(i + 1, { show: shown[curve.run] }));
    }
  }

  /** The sample grids of all runs at one moment, chosen by a slider, by its buttons, or played. */
  class Player {
    constructor(host) {
      const all = new Set(data.strips.flatMap((strip) => strip.items.map((item) => item.images)));
      this.moments = [...all].sort((a, b) => a - b);
      this.grid = make("div", { class: "strips" });
      this.pictures = data.strips.map((strip) => {
        const [caption, image] = [make("figcaption", {}), make("img", { decoding: "async" })];
        const figure = make("figure", {}, caption, image);
        this.grid.append(figure);
        return { strip, figure, caption, image, name: data.runs[strip.run] };
      });
      this.grid.append(...document.querySelectorAll(".reals figure"));
      const controls = this.controls();
      controls.hidden = this.moments.length < 2;
      host.append(controls, this.grid);
      this.show(this.moments.length - 1);
    }

    controls() {
      const last = this.moments.length - 1;
      const label = "Moment of the run, in images";
      this.input = make("input", { type: "range", min: "0", max: String(last), step: "1", "aria-label": label });
      this.output = make("output", {});
      const button = (name, text, action) => {
        const element = make("button", { type: "button", "aria-label": name, title: name }, text);
        element.addEventListener("click", action);
        return element;
      };
      const go = (index) => {
        this.stop();
        this.show(Math.max(0, Math.min(last, index)));
      };
      this.input.addEventListener("input", () => go(Number(this.input.value)));
      this.play = button("Play", "\u25b6", () => (this.timer ? this.stop() : this.start()));
      const [back, on] = [button("Earlier", "\u2039", () => go(this.index - 1)), button("Later", "\u203a", () => go(this.index + 1))];
      return make("div", { class: "player" }, back, this.play, on, this.input, this.output);
    }

    /** Show each run's newest picture up to a moment. */
    show(index) {
      this.index = index;
      moment = this.moments[index];
      for (const { strip, caption, image, name } of this.pictures) {
        const item = strip.items.findLast((one) => one.images <= moment) ?? strip.items[0];
        Object.assign(image, { width: item.width, height: item.height, alt: `Samples of ${name} after ${images(item.images)}` });
        if (image.src !== item.source) image.src = item.source;
        const after = this.pictures.length > 1 ? `${name}, after ${images(item.images)}` : `After ${images(item.images)}`;
        caption.replaceChildren(after, make("span", { class: "quiet" }, strip.note));
      }
      this.input.value = String(index);
      this.input.setAttribute("aria-valuetext", images(moment));
      this.output.textContent = images(moment);
      for (const chart of charts) chart.plot?.redraw(false);
    }

    filter() {
      for (const { figure, strip } of this.pictures) figure.hidden = !shown[strip.run];
    }

    start() {
      if (this.index === this.moments.length - 1) this.show(0);
      this.timer = setInterval(() => {
        this.show(Math.min(this.index + 1, this.moments.length - 1));
        if (this.index === this.moments.length - 1) this.stop();
      }, 350);
      this.label("Pause", "\u275a\u275a");
    }

    stop() {
      clearInterval(this.timer);
      this.timer = null;
      this.label("Play", "\u25b6");
    }

    label(name, text) {
      this.play.textContent = text;
      this.play.title = name;
      this.play.setAttribute("aria-label", name);
    }
  }

  /** The same boxes in every section that tells runs apart; those of one run go together. */
  function legends(player) {
    const boxes = data.runs.map(() => []);
    for (const host of several ? document.querySelectorAll("[data-legend]") : []) {
      const list = make("fieldset", { class: "legend" }, make("legend", { class: "visually-hidden" }, "Runs to show"));
      data.runs.forEach((name, index) => {
        const box = make("input", { type: "checkbox", checked: "" });
        box.addEventListener("change", () => {
          shown[index] = box.checked;
          for (const other of boxes[index]) other.checked = box.checked;
          player?.filter();
          for (const chart of charts) chart.filter();
        });
        boxes[index].push(box);
        list.append(make("label", {}, box, make("span", { class: `swatch c${index % 8} d${Math.floor(index / 8) % 4}` }), make("span", {}, name)));
      });
      host.append(list);
    }
  }

  const charts = data.charts.map((spec) => new Chart(spec));
  const build = () => charts.forEach((chart) => chart.build());
  for (const host of document.querySelectorAll("[data-group]")) {
    host.append(...charts.filter((chart) => chart.spec.group === host.dataset.group).map((chart) => chart.root));
  }
  const host = document.getElementById("player");
  legends(host && new Player(host));
  for (const query of [paper, matchMedia("(prefers-color-scheme: dark)")]) query.addEventListener("change", build);
  // After the first paint: tables and samples are there at once, however many curves there are.
  requestAnimationFrame(() =>
    setTimeout(() => {
      performance.mark("charts");
      build();
      document.documentElement.dataset.ready = "true";
    }),
  );
})();
