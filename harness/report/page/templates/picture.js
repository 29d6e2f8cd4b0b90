"use strict";
// A picture with what a reply can read of it, and the curve of its attention.
/** Tokens visible at a step, and those that came and went at it. */
function seen(trace, step) {
  const visible = new Set();
  let came = [];
  let went = [];
  for (const [at, more, fewer] of trace.changes) {
    if (at > step) break;
    more.forEach((token) => visible.add(token));
    fewer.forEach((token) => visible.delete(token));
    if (at === step && at > 0) [came, went] = [more, fewer];
  }
  return { visible, came, went };
}

/** A picture and, over it, what a reply can read of it: {element, show(step)}. */
function overlay(index, number, trace, name) {
  const [uri, width, height] = data.pictures[index];
  const boxes = trace ? data.layouts[trace.layout].map((box) => (box && box[0] === number ? box.slice(1) : null)) : [];
  const place = ([top, left, bottom, right]) => ({
    x: (left / 1e4) * width,
    y: (top / 1e4) * height,
    width: ((right - left) / 1e4) * width,
    height: ((bottom - top) / 1e4) * height,
  });
  const veils = boxes.map((box) => box && el("rect", { class: "veil", ...place(box) }));
  const marks = el("g");
  const element = el(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", class: width * height < 4e4 ? "shown sharp" : "shown" },
    el("image", { href: uri, width, height }),
    el("g", {}, ...veils.filter(Boolean)),
    marks,
  );

  function outline(token, kind) {
    if (!boxes[token]) return null;
    const { x, y, width: w, height: h } = place(boxes[token]);
    if (kind === "look") return el("circle", { class: kind, cx: x + w / 2, cy: y + h / 2, r: Math.min(w, h) / 6 });
    return el("rect", { class: kind, x, y, width: w, height: h });
  }

  function show(step) {
    if (!trace) return element.setAttribute("aria-label", `Picture ${number + 1}`);
    const { visible, came, went } = seen(trace, step);
    veils.forEach((veil, token) => veil && veil.classList.toggle("clear", visible.has(token)));
    const kinds = { look: trace.top[step] ?? [], gone: went, came, needed: trace.needed[step] ?? [] };
    marks.replaceChildren(
      ...Object.entries(kinds)
        .flatMap(([kind, tokens]) => tokens.map((token) => outline(token, kind)))
        .filter(Boolean),
    );
    element.setAttribute(
      "aria-label",
      `Picture ${number + 1} with the ${visible.size} visual tokens that ${name} can read`,
    );
  }
  return { element, show };
}

/** Similarity to the prefill along a reply, with its RVIS events and the step at hand. */
function curve(trace) {
  const n = Math.max(1, trace.similarity.length - 1);
  const y = (value) => 2 + 36 * (1 - value);
  const line = el("polyline", {
    class: "curve",
    points: trace.similarity.map((value, i) => `${(100 * i) / n},${y(value)}`).join(" "),
  });
  const cursor = el("line", { class: "cursor", y1: 0, y2: 40 });
  const events = trace.events.map((step) =>
    el("line", { class: "event", x1: (100 * step) / n, x2: (100 * step) / n, y1: y(trace.similarity[step]), y2: 40 }),
  );
  const limit = el("line", { class: "limit", x1: 0, x2: 100, y1: y(trace.threshold), y2: y(trace.threshold) });
  const said = `Similarity to the prefill over ${n} steps, ${trace.events.length} RVIS events`;
  const element = el(
    "svg",
    { class: "spark", viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": said },
    limit,
    ...events,
    line,
    cursor,
  );
  const show = (step) => ["x1", "x2"].forEach((x) => cursor.setAttribute(x, (100 * Math.min(step, n)) / n));
  return { element, show };
}
