"use strict";
// The three figures of a section, drawn by plots.js.
function costs(points, axis, style, { layout, accent }) {
  const known = points.filter((point) => point[axis] !== null);
  const percent = (point, key) => 100 * point[key];
  const methods = [...new Set(known.map((point) => point.method))];
  const traces = methods.map((method) => {
    const own = known.filter((point) => point.method === method).sort((a, b) => a[axis] - b[axis]);
    const { colour, symbol } = style(method);
    return {
      name: plain(method),
      x: own.map((p) => p[axis]),
      y: own.map((p) => percent(p, "accuracy")),
      mode: "lines+markers",
      line: { color: colour, width: 1, dash: "dot" },
      marker: { color: colour, symbol, size: 10 },
      error_y: {
        array: own.map((p) => percent(p, "accuracy_high") - percent(p, "accuracy")),
        symmetric: false,
        arrayminus: own.map((p) => percent(p, "accuracy") - percent(p, "accuracy_low")),
        color: colour,
        thickness: 1,
        width: 3,
      },
      text: own.map((p) =>
        plain(`${called(p)}${p.diagnostic ? " (diagnostic)" : ""}: ${percent(p, "accuracy").toFixed(1)} %`),
      ),
      hovertemplate: "%{text}<br>%{x:.3~s}<extra></extra>",
    };
  });
  const front = known.filter((point) => point.fronts.includes(axis)).sort((a, b) => a[axis] - b[axis]);
  if (front.length) {
    traces.push({
      name: "Pareto front",
      x: front.map((p) => p[axis]),
      y: front.map((p) => percent(p, "accuracy")),
      mode: "lines",
      line: { color: accent, width: 2, shape: "hv" },
      hoverinfo: "skip",
    });
  }
  const height = 340 + 22 * Math.ceil((methods.length + 1) / (window.innerWidth < 600 ? 3 : 5));
  draw(
    "costs",
    traces,
    {
      ...layout,
      height,
      xaxis: { ...layout.xaxis, title: { text: AXES[axis] }, rangemode: "tozero", tickformat: "~s" },
      yaxis: { ...layout.yaxis, title: { text: "accuracy, %" } },
    },
    `Accuracy of ${known.length} cells against ${AXES[axis]}`,
  );
  document.getElementById("costs-text").textContent = known.length
    ? `Accuracy with 95 % intervals against ${AXES[axis]}. ` +
      (front.length
        ? "Line: Pareto front, the cells that no other one beats in both (oracle and replay do not compete)."
        : "No front: the cells were not all measured on one machine.")
    : "No cell here has both an accuracy and this cost.";
}

function lengths(cells, style, { layout }) {
  const traces = cells.map((cell) => {
    const [low, q1, median, q3, high] = cell.quantiles.map((value) => [value]);
    return {
      type: "box",
      orientation: "h",
      y: [plain(called(cell))],
      name: plain(called(cell)),
      q1,
      median,
      q3,
      lowerfence: low,
      upperfence: high,
      line: { color: style(cell.method).colour, width: 1.5 },
      showlegend: false,
    };
  });
  draw(
    "lengths",
    traces,
    {
      ...layout,
      height: 80 + 30 * cells.length,
      xaxis: { ...layout.xaxis, title: { text: "tokens written" }, rangemode: "tozero" },
      yaxis: { ...layout.yaxis, autorange: "reversed", type: "category" },
    },
    `Lengths of replies of ${cells.length} cells`,
  );
}

function shifts(found, { layout, text, accent }) {
  const said = document.getElementById("shifts-text");
  if (!found) {
    said.textContent =
      "How attention to the picture shifts while a reply is written (RVIS) is not on record here: " +
      "run pruner=none with record=attention.";
    return draw("shifts", [], layout, "");
  }
  const x = found.median.map((_, i) => i + 1);
  const band = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  draw(
    "shifts",
    [
      { ...band, y: found.low },
      {
        ...band,
        y: found.high,
        fill: "tonexty",
        fillcolor: "rgba(86,180,233,0.25)",
        name: "middle 80 %",
        showlegend: true,
      },
      {
        x,
        y: found.median,
        mode: x.length > 1 ? "lines" : "markers",
        name: "median",
        line: { color: accent, width: 2 },
      },
      {
        x: [1, Math.max(2, x.length)],
        y: [found.threshold, found.threshold],
        mode: "lines",
        name: "threshold",
        line: { color: text, width: 1, dash: "dash" },
      },
      {
        x: found.events.map((e) => e[0]),
        y: found.events.map((e) => e[1]),
        mode: "markers",
        name: "RVIS event",
        marker: { color: COLOURS[1], size: 6, symbol: "diamond", opacity: 0.6 },
      },
    ],
    {
      ...layout,
      height: 340,
      xaxis: { ...layout.xaxis, title: { text: "step" } },
      yaxis: { ...layout.yaxis, title: { text: "similarity to the prefill" }, range: [0, 1.04] },
    },
    `Similarity of attention to that of the prefill over ${x.length} steps`,
  );
  said.textContent =
    `Shifts of visual attention in ${found.replies} replies of the full model: ` +
    "cosine of each step's attention over visual tokens to the prefill's. " +
    `An RVIS event is a local minimum below ${found.threshold}; there are ${found.rate} a reply.`;
}
