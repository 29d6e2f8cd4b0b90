"use strict";
const UNSEEN = "What this reply could see is not on record: the command that ran it, again with record=attention "
  + "(and a small limit=), adds that to finished samples.";

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
    x: (left / 1e4) * width, y: (top / 1e4) * height, width: ((right - left) / 1e4) * width, height: ((bottom - top) / 1e4) * height });
  const veils = boxes.map((box) => box && el("rect", { class: "veil", ...place(box) }));
  const marks = el("g");
  const element = el("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: width * height < 4e4 ? "shown sharp" : "shown" },
    el("image", { href: uri, width, height }), el("g", {}, ...veils.filter(Boolean)), marks);

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
    marks.replaceChildren(...Object.entries(kinds).flatMap(([kind, tokens]) => tokens.map((token) => outline(token, kind))).filter(Boolean));
    element.setAttribute("aria-label", `Picture ${number + 1} with the ${visible.size} visual tokens that ${name} can read`);
  }
  return { element, show };
}

/** Similarity to the prefill along a reply, with its RVIS events and the step at hand. */
function curve(trace) {
  const n = Math.max(1, trace.similarity.length - 1);
  const y = (value) => 2 + 36 * (1 - value);
  const line = el("polyline", { class: "curve", points: trace.similarity.map((value, i) => `${(100 * i) / n},${y(value)}`).join(" ") });
  const cursor = el("line", { class: "cursor", y1: 0, y2: 40 });
  const events = trace.events.map((step) => el("line", { class: "event", x1: (100 * step) / n, x2: (100 * step) / n, y1: y(trace.similarity[step]), y2: 40 }));
  const limit = el("line", { class: "limit", x1: 0, x2: 100, y1: y(trace.threshold), y2: y(trace.threshold) });
  const said = `Similarity to the prefill over ${n} steps, ${trace.events.length} RVIS events`;
  const element = el("svg", { class: "spark", viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": said }, limit, ...events, line, cursor);
  const show = (step) => ["x1", "x2"].forEach((x) => cursor.setAttribute(x, (100 * Math.min(step, n)) / n));
  return { element, show };
}

/** One method's reply: the picture, the text as far as it is written, and what is visible: {element, steps, show(step)}. */
function panel(sample, method, reply, heading) {
  const trace = reply?.trace ?? null;
  const name = called(method);
  const maps = sample.pictures.map((index, number) => overlay(index, number, trace, name));
  const [past, now, rest] = [el("span"), el("mark"), el("span", { class: "unwritten" })];
  const state = el("p", { class: "state" });
  const line = trace ? curve(trace) : null;
  const steps = trace ? trace.similarity.length : 0;
  const element = el("article", { class: "panel" },
    el(heading, {}, name, " ", reply ? verdict(reply.verdict) : "not run"),
    ...maps.map((map) => map.element),
    maps.length ? null : el("p", { class: "absent" }, sample.missing ? `No picture here: ${sample.missing}.` : "A question without a picture."),
    state, line?.element ?? null,
    line ? el("p", { class: "caption" }, "Similarity of attention to the prefill (RVIS events: bars, threshold: dashes)") : null,
    el("p", { class: "reply", lang: "" }, past, now, rest));

  function show(step) {
    maps.forEach((map) => map.show(Math.min(step, steps - 1)));
    line?.show(step);
    if (!trace) {
      state.textContent = reply ? UNSEEN : "No reply to this sample.";
      past.textContent = reply?.text ?? "";
      return;
    }
    const at = Math.min(step, steps - 1);
    const [from, to] = [at ? trace.ends[at - 1] : 0, trace.ends[at]];
    past.textContent = reply.text.slice(0, from);
    now.textContent = reply.text.slice(from, to);
    rest.textContent = reply.text.slice(to);
    const { visible, came, went } = seen(trace, at);
    state.textContent = [`${visible.size} of ${trace.tokens} visual tokens visible`,
      came.length || went.length ? `${came.length} in, ${went.length} out` : null,
      trace.events.includes(at) ? "RVIS event" : null, at < step ? "the reply has ended" : null].filter(Boolean).join("; ");
  }
  show(0);
  return { element, steps, show };
}

/** Slider and buttons that move some panels along their decoding steps. */
function player(panels) {
  const last = Math.max(...panels.map((one) => one.steps)) - 1;
  if (last < 0) return null;
  const range = el("input", { type: "range", id: "step", min: 0, max: last, step: 1, value: 0, input: move });
  const said = el("output", { for: "step" });
  const [back, on] = [-1, 1].map((by) => el("button", { type: "button", click: () => { range.value = Number(range.value) + by; move(); } },
    by < 0 ? "Previous step" : "Next step"));
  function move() {
    const step = Number(range.value);
    panels.forEach((one) => one.show(step));
    said.textContent = step ? `${step} of ${last}` : "prefill";
    range.setAttribute("aria-valuetext", step ? `step ${step} of ${last}` : "prefill");
    [back.disabled, on.disabled] = [step === 0, step === last];
  }
  move();
  return el("div", { class: "player" }, back, el("label", { for: "step" }, "Decoding step"), range, said, on);
}

/** What the marks over a picture mean. */
function legend() {
  const entries = { veil: "dropped (the last layer cannot read it)", came: "swapped in at this step", gone: "swapped out",
                    look: "most attended (mean over layers)", needed: "needed now" };
  return el("ul", { class: "legend" }, ...Object.entries(entries).map(([kind, text]) => el("li", {}, el("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), text)));
}

/** The question, its reference and what is known of it. */
function question(sample) {
  const facts = [["Category", sample.category], ["Reference", sample.answer]].filter(([, value]) => value);
  return el("div", { class: "question" }, el("p", { class: "asked", lang: "" }, sample.question ?? "The question is not here."),
    el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
}
