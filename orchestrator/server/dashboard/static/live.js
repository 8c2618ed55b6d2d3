// Makes pages live: replaces #live by what the server streams, and draws charts. Everything is
// there without this file, too.
(() => {
  "use strict";
  const region = document.getElementById("live");
  const pulse = document.getElementById("pulse");
  let source = null;
  let plots = [];

  function open() {
    if (!region || source || document.hidden) return;
    source = new EventSource(region.dataset.live);
    source.addEventListener("screen", (event) => {
      for (const plot of plots) plot.destroy();
      plots = [];
      // htmx keeps the focus on what has the same id.
      htmx.swap(region, event.data, { swapStyle: "innerHTML" });
      draw();
      region.dataset.seen = event.lastEventId;
      show("live");
    });
    source.addEventListener("error", () => {
      // While it is only reconnecting, the browser sees to it. Where the answer was no (the session
      // is over), the page says why.
      if (source && source.readyState === EventSource.CLOSED) location.reload();
      else show("reconnecting");
    });
  }

  function close() {
    if (source) source.close();
    source = null;
    show("paused");
  }

  function show(state) {
    if (!pulse) return;
    pulse.hidden = false;
    pulse.textContent = state;
    pulse.className = `pulse ${state}`;
  }

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function draw() {
    for (const box of document.querySelectorAll("[data-chart]")) {
      const told = JSON.parse(box.dataset.chart);
      const ink = colour("--muted");
      const grid = { stroke: colour("--line"), width: 1 };
      const font = "12px system-ui, sans-serif";
      const size = () => ({ width: Math.max(260, box.clientWidth), height: box.clientWidth < 500 ? 180 : 220 });
      box.textContent = "";
      const plot = new uPlot(
        {
          ...size(),
          tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
          cursor: { y: false },
          legend: { live: true },
          axes: [
            { stroke: ink, grid, ticks: grid, font, values: "{HH}:{mm}", space: 70 },
            { stroke: ink, grid, ticks: grid, font, size: 48 },
          ],
          scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
          series: [
            { label: "at", value: "{HH}:{mm}:{ss}" },
            ...told.lines.map((line) => ({
              label: line.name,
              stroke: colour(`--${line.css}`),
              fill: line.css === "in" ? colour("--in-soft") : undefined,
              width: 2,
              points: { show: false },
              value: (_, value) => (value === null ? "–" : `${value.toFixed(1)}${told.unit}`),
            })),
          ],
        },
        [told.at, ...told.lines.map((line) => line.values)],
        box,
      );
      plot.redrawSize = () => plot.setSize(size());
      plots.push(plot);
    }
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", () => source && source.close());
  window.addEventListener("resize", () => plots.forEach((plot) => plot.redrawSize()));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const plot of plots) plot.destroy();
    plots = [];
    draw();
  });
  draw();
  open();
})();
