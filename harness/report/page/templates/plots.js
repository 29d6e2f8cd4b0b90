"use strict";
// Colours, marks and choice of the figures.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]; // Okabe and Ito
const MARKS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "triangle-down"];
const AXES = {
  flops: "executed FLOPs a sample",
  seconds: "seconds a sample",
  ret_prefill: "visual tokens read in prefill, share",
  ret_decode: "visual tokens read a decode step, share",
  kv: "visual tokens in the KV cache, share",
};
const FLOORS = new Set(["random", "random_layer", "blind"]);

/** Text that plotly shall not take for markup. */
function plain(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

/** Colours and type of the page as it looks now. */
function look() {
  const style = getComputedStyle(document.body);
  const line = getComputedStyle(document.querySelector("footer")).borderTopColor;
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, fixedrange: true };
  const accent = getComputedStyle(document.querySelector("nav a")).color;
  return {
    text: style.color,
    accent,
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 8, r: 12, t: 12, b: 8 },
      font: { family: style.fontFamily, size: 13, color: style.color },
      hoverlabel: { align: "left" },
      legend: { orientation: "h", x: 0, yref: "container", y: 0, yanchor: "bottom" },
      xaxis: { ...axis },
      yaxis: { ...axis },
    },
  };
}

/** Colour and mark of each method, the same in all figures. */
function styles(names, text) {
  const others = names.filter((name) => name !== "none" && !FLOORS.has(name));
  return (name) => ({
    colour: name === "none" ? text : FLOORS.has(name) ? "#888888" : COLOURS[others.indexOf(name) % COLOURS.length],
    symbol: name === "none" ? "star" : MARKS[names.indexOf(name) % MARKS.length],
  });
}

function draw(id, traces, layout, said) {
  const place = document.getElementById(id);
  place.hidden = traces.length === 0;
  if (!traces.length) return Plotly.purge(place);
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", said);
  return Plotly.react(place, traces, layout, { displayModeBar: false, responsive: true });
}

(function figures() {
  const shown = document.getElementById("shown");
  const axis = document.getElementById("axis");
  offer(
    shown,
    data.figures.map((figure, i) => [i, figure.title]),
  );
  const names = [
    ...new Set(data.figures.flatMap((figure) => [...figure.costs, ...figure.lengths].map((cell) => cell.method))),
  ].sort();
  shown.value = telling;
  function all() {
    const figure = data.figures[shown.value];
    const now = look();
    const style = styles(names, now.text);
    costs(figure.costs, axis.value, style, now);
    lengths(figure.lengths, style, now);
    shifts(figure.shifts, now);
  }
  shown.addEventListener("change", all);
  axis.addEventListener("change", all);
  window.addEventListener("themechange", all);
  all();
})();
