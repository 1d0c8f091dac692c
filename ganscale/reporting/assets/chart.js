"use strict";

/** A line chart in SVG: curves of several runs, floor, error bars, events; a crosshair by pointer, touch and keys. */
class Chart {
  /**
   * @param {object} spec one of the page's charts
   * @param {object} shared axes, runs, events, longest (images), cross (tells all charts where the crosshair is)
   */
  constructor(spec, shared) {
    this.spec = spec;
    this.shared = shared;
    this.log = spec.log;
    this.width = 0;
    this.build();
  }

  build() {
    const { spec } = this;
    this.root = make("figure", { class: "chart" });
    const head = make("figcaption", {});
    head.append(make("h4", {}, spec.title));
    const positive = spec.curves.every((curve) => curve.y.every((v) => v === null || v > 0));
    if (positive) {
      this.button = make("button", { type: "button", "aria-pressed": String(this.log) }, "log");
      this.button.setAttribute("aria-label", `${spec.title}: logarithmic axis`);
      this.button.addEventListener("click", () => this.toggleLog());
      head.append(this.button);
    }
    this.svg = drawn("svg", { class: "plot", tabindex: "0", role: "img" });
    this.readout = make("div", { class: "readout", role: "status" });
    this.readout.hidden = true;
    this.root.append(head, this.note(), this.svg, this.readout);
    this.listen();
  }

  /** What is drawn and, where a run has several curves, which is which. */
  note() {
    const note = make("p", { class: "note" }, this.spec.note);
    const firsts = this.spec.curves.filter((curve, i, all) => all.findIndex((c) => c.role === curve.role) === i);
    if (firsts.length < 2) return note;
    const several = this.shared.runs.length > 1;
    firsts.forEach((curve, i) => {
      const key = make("span", { class: "key" });
      key.append(swatch(several ? `neutral d${i % 4}` : this.look(curve)), make("span", {}, curve.role));
      note.append(" ", key);
    });
    return note;
  }

  listen() {
    const move = (event) => this.point(event.clientX, event.clientY);
    this.svg.addEventListener("pointermove", move);
    this.svg.addEventListener("pointerdown", move);
    this.svg.addEventListener("pointerleave", () => this.shared.cross(null, null));
    this.svg.addEventListener("blur", () => this.shared.cross(null, null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  toggleLog() {
    this.log = !this.log;
    this.button.setAttribute("aria-pressed", String(this.log));
    this.draw();
  }

  /** Curves of the runs that are shown. */
  visible() {
    return this.spec.curves.filter((curve) => this.shared.runs[curve.run].shown);
  }

  /** Lay out for the present width and draw everything anew. */
  draw() {
    this.width = Math.max(220, Math.round(this.svg.getBoundingClientRect().width) || 360);
    this.height = 210;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.replaceChildren();
    const curves = this.visible();
    this.scales(curves);
    this.axes();
    this.marks();
    curves.forEach((curve) => this.curve(curve));
    this.cross = drawn("line", { class: "cross", y1: 8, y2: this.height - 22, visibility: "hidden" });
    this.dots = drawn("g", {});
    this.svg.append(this.cross, this.dots);
    this.svg.setAttribute("aria-label", this.described(curves));
  }

  scales(curves) {
    const values = curves.flatMap((curve) => curve.y).filter((v) => v !== null);
    const { floor } = this.spec;
    if (floor !== null && (!this.log || floor > 0)) values.push(floor);
    const low = values.reduce((a, b) => Math.min(a, b), Infinity);
    const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
    const [bottom, top] = values.length ? [low, high] : [0.1, 1];
    const scale = this.log ? Scale.logarithmic : Scale.linear;
    this.y = scale(bottom, top, this.height - 26, 12);
    this.x = Scale.linear(0, this.shared.longest, 46, this.width - 10);
  }

  axes() {
    for (const value of this.y.ticks(4)) {
      const y = this.y.at(value);
      this.svg.append(drawn("line", { class: "grid", x1: 46, x2: this.width - 10, y1: y, y2: y }));
      this.svg.append(drawn("text", { x: 40, y: y + 4, "text-anchor": "end" }, Scale.short(value)));
    }
    for (const value of this.x.ticks(this.width > 280 ? 5 : 3)) {
      const x = Math.min(this.x.at(value), this.width - 14);
      this.svg.append(drawn("text", { x, y: this.height - 6, "text-anchor": "middle" }, Scale.short(value)));
    }
  }

  /** Floor, health events of the runs that are shown, and the moment of the sample grids. */
  marks() {
    const vertical = (name, images) => {
      const x = this.x.at(images);
      return drawn("line", { class: name, x1: x, x2: x, y1: 8, y2: this.height - 22 });
    };
    const { floor } = this.spec;
    if (floor !== null && (!this.log || floor > 0)) {
      const y = this.y.at(floor);
      this.svg.append(drawn("line", { class: "floor", x1: 46, x2: this.width - 10, y1: y, y2: y }));
    }
    for (const event of this.shared.events) {
      if (this.shared.runs[event.run].shown) this.svg.append(vertical("event", event.images));
    }
    this.moment = vertical("moment", this.shared.moment ?? 0);
    this.moment.setAttribute("visibility", this.shared.moment === null ? "hidden" : "visible");
    this.svg.append(this.moment);
  }

  curve(curve) {
    const xs = this.shared.axes[curve.x];
    const look = this.look(curve);
    let path = "";
    let down = false;
    curve.y.forEach((value, i) => {
      if (value !== null) path += `${down ? "L" : "M"}${this.x.at(xs[i]).toFixed(1)} ${this.y.at(value).toFixed(1)}`;
      down = value !== null;
    });
    this.svg.append(drawn("path", { class: `curve ${look}`, d: path }));
    if (xs.length > 40) return;
    curve.y.forEach((value, i) => {
      if (value === null) return;
      const x = this.x.at(xs[i]);
      const error = curve.errors ? curve.errors[i] : null;
      if (error !== null && (!this.log || value > error)) {
        const [y1, y2] = [this.y.at(value - error), this.y.at(value + error)];
        this.svg.append(drawn("line", { class: `whisker ${look}`, x1: x, x2: x, y1, y2 }));
      }
      this.svg.append(drawn("circle", { class: `dot ${look}`, cx: x, cy: this.y.at(value), r: 2.2 }));
    });
  }

  /** Colour tells runs apart and dashes the parts; with a single run colour tells the parts apart. */
  look(curve) {
    const roles = [...new Set(this.spec.curves.map((c) => c.role))];
    const role = roles.indexOf(curve.role);
    if (this.shared.runs.length === 1) return `c${role % 8}`;
    return `c${curve.run % 8} d${role > 0 ? role % 4 : Math.floor(curve.run / 8) % 4}`;
  }

  name(curve) {
    const run = this.shared.runs.length > 1 ? this.shared.runs[curve.run].name : "";
    return [run, curve.role].filter(Boolean).join(" \u00b7 ") || this.spec.title;
  }

  described(curves) {
    const last = curves.slice(0, 6).map((curve) => {
      const value = curve.y.findLast((v) => v !== null);
      return `${this.name(curve)} ${Scale.number(value)}`;
    });
    return `${this.spec.title} over images. Last values: ${last.join(", ")}. Arrow keys move the crosshair.`;
  }

  point(clientX, clientY) {
    const box = this.svg.getBoundingClientRect();
    const x = ((clientX - box.left) / box.width) * this.width;
    const images = ((x - 46) / (this.width - 56)) * this.shared.longest;
    this.at(images, ((clientY - box.top) / box.height) * this.height);
  }

  /** Put the crosshair at the logged point that is nearest to so many images. */
  at(images, y) {
    const curves = this.visible();
    if (!curves.length) return;
    const candidates = curves.map((curve) => {
      const xs = this.shared.axes[curve.x];
      return xs[Scale.nearest(xs, images)];
    });
    const best = candidates.reduce((a, b) => (Math.abs(b - images) < Math.abs(a - images) ? b : a));
    this.here = best;
    this.shared.cross(best, this);
    this.tell(best, y);
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") this.shared.cross(null, null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    const all = new Set(this.visible().flatMap((curve) => this.shared.axes[curve.x]));
    const xs = [...all].sort((a, b) => a - b);
    if (!xs.length) return;
    const now = this.readout.hidden ? -1 : Scale.nearest(xs, this.here);
    const next = Math.max(0, Math.min(xs.length - 1, now + steps[event.key]));
    this.at(xs[next], 20);
  }

  /** Show or hide the crosshair line; another chart's readout goes away. */
  follow(images, source) {
    if (source !== this) {
      this.readout.hidden = true;
      this.dots.replaceChildren();
    }
    this.cross.setAttribute("visibility", images === null ? "hidden" : "visible");
    if (images === null) return;
    this.cross.setAttribute("x1", this.x.at(images));
    this.cross.setAttribute("x2", this.x.at(images));
  }

  /** Values at so many images, those nearest to the pointer if there are many. */
  tell(images, y) {
    const rows = this.visible().flatMap((curve) => {
      const xs = this.shared.axes[curve.x];
      const i = Scale.nearest(xs, images);
      if (Math.abs(xs[i] - images) > this.shared.longest / 50) return [];
      return [{ curve, x: xs[i], value: curve.y[i], error: curve.errors?.[i] ?? null }];
    });
    const distance = (row) => (row.value === null ? Infinity : Math.abs(this.y.at(row.value) - y));
    const near = rows.length > 10 ? [...rows].sort((a, b) => distance(a) - distance(b)).slice(0, 10) : rows;
    this.dots.replaceChildren();
    this.readout.replaceChildren(make("div", { class: "quiet" }, `${images.toLocaleString("en-US")} images`));
    for (const { curve, x, value, error } of near) {
      const row = make("div", {});
      const text = Scale.number(value) + (error === null ? "" : ` \u00b1 ${Scale.number(error)}`);
      row.append(swatch(this.look(curve)), make("span", { class: "name" }, this.name(curve)));
      row.append(make("span", { class: "value" }, text));
      this.readout.append(row);
      if (value === null) continue;
      this.dots.append(drawn("circle", { class: `dot ${this.look(curve)}`, cx: this.x.at(x), cy: this.y.at(value), r: 3.5 }));
    }
    if (near.length < rows.length) {
      this.readout.append(make("div", { class: "quiet" }, `and ${rows.length - near.length} more`));
    }
    this.place(images);
  }

  /** Beside the crosshair, on the side where there is room. */
  place(images) {
    this.readout.hidden = false;
    const svg = this.svg.getBoundingClientRect();
    const cross = svg.left - this.root.getBoundingClientRect().left + this.x.at(images) * (svg.width / this.width);
    const room = this.root.clientWidth - this.readout.offsetWidth - 4;
    const left = cross + 12 <= room ? cross + 12 : Math.max(4, cross - 12 - this.readout.offsetWidth);
    const top = svg.top - this.root.getBoundingClientRect().top + 6;
    this.readout.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }
}

/** An HTML element; text never becomes markup. */
function make(name, attributes, text) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** The same for SVG. */
function drawn(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A short piece of a curve's line. */
function swatch(look) {
  const svg = drawn("svg", { class: "swatch", viewBox: "0 0 24 12", "aria-hidden": "true" });
  svg.append(drawn("line", { class: `curve ${look}`, x1: 0, x2: 24, y1: 6, y2: 6 }));
  return svg;
}
