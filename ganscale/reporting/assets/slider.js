"use strict";

/** The sample grids of all runs at one moment, chosen by a slider, by its buttons, or played. */
class Player {
  /**
   * @param {object[]} strips of each run, its pictures by images
   * @param {object[]} runs names
   * @param {Function} tell takes the images that are shown
   */
  constructor(strips, runs, tell) {
    this.strips = strips;
    this.tell = tell;
    const all = new Set(strips.flatMap((strip) => strip.items.map((item) => item.images)));
    this.moments = [...all].sort((a, b) => a - b);
    this.timer = null;
    this.root = make("div", {});
    const controls = this.controls();
    controls.hidden = this.moments.length < 2;
    this.grid = this.figures(runs);
    this.root.append(controls, this.grid);
    this.show(this.moments.length - 1);
  }

  controls() {
    const bar = make("div", { class: "player" });
    this.input = make("input", { type: "range", id: "moment", min: "0", max: String(this.moments.length - 1), step: "1" });
    this.output = make("output", { for: "moment" });
    this.input.addEventListener("input", () => {
      this.stop();
      this.show(Number(this.input.value));
    });
    const button = (label, text, action) => {
      const element = make("button", { type: "button", "aria-label": label, title: label }, text);
      element.addEventListener("click", action);
      return element;
    };
    const step = (by) => () => {
      this.stop();
      this.show(Math.max(0, Math.min(this.moments.length - 1, this.index + by)));
    };
    const label = make("label", { for: "moment", class: "visually-hidden" }, "Moment of the run, in images");
    this.play = button("Play", "\u25b6", () => (this.timer ? this.stop() : this.start()));
    bar.append(button("Earlier", "\u2039", step(-1)), this.play, button("Later", "\u203a", step(1)));
    bar.append(label, this.input, this.output);
    return bar;
  }

  figures(runs) {
    const grid = make("div", { class: "strips" });
    this.pictures = this.strips.map((strip) => {
      const figure = make("figure", {});
      const caption = make("figcaption", {});
      const image = make("img", { decoding: "async" });
      figure.append(caption, image);
      grid.append(figure);
      figure.dataset.run = String(strip.run);
      return { strip, figure, caption, image, name: runs[strip.run].name, run: runs[strip.run] };
    });
    return grid;
  }

  /** Show each run's newest picture up to a moment. */
  show(index) {
    this.index = index;
    const images = this.moments[index];
    for (const { strip, caption, image, name } of this.pictures) {
      const item = strip.items.findLast((one) => one.images <= images) ?? strip.items[0];
      const when = `${item.images.toLocaleString("en-US")} images`;
      if (image.src !== item.source) {
        image.width = item.width;
        image.height = item.height;
        image.src = item.source;
      }
      image.alt = `Samples of ${name} after ${when}`;
      caption.textContent = this.pictures.length > 1 ? `${name}, ${when}` : `After ${when}`;
    }
    const text = `${images.toLocaleString("en-US")} images`;
    this.input.value = String(index);
    this.input.setAttribute("aria-valuetext", text);
    this.output.textContent = text;
    this.tell(images);
  }

  /** Hide the pictures of runs that are not shown. */
  filter() {
    for (const { figure, run } of this.pictures) figure.hidden = !run.shown;
  }

  start() {
    if (this.index === this.moments.length - 1) this.show(0);
    this.press("Pause", "\u275a\u275a");
    this.timer = setInterval(() => {
      this.show(Math.min(this.index + 1, this.moments.length - 1));
      if (this.index === this.moments.length - 1) this.stop();
    }, 350);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.press("Play", "\u25b6");
  }

  press(label, text) {
    this.play.textContent = text;
    this.play.setAttribute("aria-label", label);
    this.play.title = label;
  }
}
