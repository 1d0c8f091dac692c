"use strict";

/** Reads the page's data and fills its places: legend, sample grids, charts. Tables are in the page already. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const runs = data.runs.map((name) => ({ name, shown: true }));
  const ends = [...data.axes.map((axis) => axis.at(-1)), ...data.strips.flatMap((strip) => strip.items.map((i) => i.images))];
  const shared = {
    runs,
    axes: data.axes,
    events: data.events,
    longest: ends.reduce((a, b) => Math.max(a, b), 1),
    moment: null,
    cross: (images, source) => charts.forEach((chart) => chart.follow(images, source)),
  };
  const charts = data.charts.map((spec) => new Chart(spec, shared));
  const drawAll = () => charts.forEach((chart) => chart.draw());

  const placeCharts = () => {
    for (const host of document.querySelectorAll("[data-group]")) {
      host.append(...charts.filter((chart) => chart.spec.group === host.dataset.group).map((chart) => chart.root));
    }
    drawAll();
  };

  const placePlayer = () => {
    const host = document.getElementById("player");
    if (!host || !data.strips.length) return null;
    const player = new Player(data.strips, runs, (images) => {
      shared.moment = images;
      for (const chart of charts) {
        if (!chart.moment) continue;
        chart.moment.setAttribute("x1", chart.x.at(images));
        chart.moment.setAttribute("x2", chart.x.at(images));
      }
    });
    host.append(player.root);
    player.grid.append(...document.querySelectorAll(".reals figure"));
    return player;
  };

  /** The same legend wherever runs are told apart; its boxes go together. */
  const placeLegends = (player) => {
    const hosts = runs.length > 1 ? document.querySelectorAll("[data-legend]") : [];
    const boxes = runs.map(() => []);
    const show = (index, shown) => {
      runs[index].shown = shown;
      for (const box of boxes[index]) box.checked = shown;
      player?.filter();
      drawAll();
    };
    for (const host of hosts) {
      const list = make("fieldset", { class: "legend" });
      list.append(make("legend", { class: "visually-hidden" }, "Runs to show"));
      runs.forEach((run, index) => {
        const label = make("label", {});
        const box = make("input", { type: "checkbox" });
        box.checked = true;
        box.addEventListener("change", () => show(index, box.checked));
        boxes[index].push(box);
        label.append(box, swatch(`c${index % 8} d${Math.floor(index / 8) % 4}`), make("span", {}, run.name));
        list.append(label);
      });
      host.append(list);
    }
  };

  const player = placePlayer();
  placeCharts();
  placeLegends(player);

  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    requestAnimationFrame(drawAll);
  });
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details[data-print]")) details.open = true;
  });
  document.documentElement.dataset.ready = "true";
})();
