"use strict";
// Replies to one sample: panels, the slider that moves them, the question.
const UNSEEN =
  "What this reply could see is not on record: the command that ran it, again with record=attention " +
  "(and a small limit=), adds that to finished samples.";

/** One method's reply: picture, text as far as it is written, what is visible: {element, steps, show(step)}. */
function panel(sample, method, reply, heading) {
  const trace = reply?.trace ?? null;
  const name = called(method);
  const maps = sample.pictures.map((index, number) => overlay(index, number, trace, name));
  const [past, now, rest] = [el("span"), el("mark"), el("span", { class: "unwritten" })];
  const state = el("p", { class: "state" });
  const line = trace ? curve(trace) : null;
  const steps = trace ? trace.similarity.length : 0;
  const element = el(
    "article",
    { class: "panel" },
    el(heading, {}, name, " ", reply ? verdict(reply.verdict) : "not run"),
    ...maps.map((map) => map.element),
    maps.length
      ? null
      : el(
          "p",
          { class: "absent" },
          sample.missing ? `No picture here: ${sample.missing}.` : "A question without a picture.",
        ),
    state,
    line?.element ?? null,
    line
      ? el("p", { class: "caption" }, "Similarity of attention to the prefill (RVIS events: bars, threshold: dashes)")
      : null,
    el("p", { class: "reply", lang: "" }, past, now, rest),
  );

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
    state.textContent = [
      `${visible.size} of ${trace.tokens} visual tokens visible`,
      came.length || went.length ? `${came.length} in, ${went.length} out` : null,
      trace.events.includes(at) ? "RVIS event" : null,
      at < step ? "the reply has ended" : null,
    ]
      .filter(Boolean)
      .join("; ");
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
  const [back, on] = [-1, 1].map((by) =>
    el(
      "button",
      {
        type: "button",
        click: () => {
          range.value = Number(range.value) + by;
          move();
        },
      },
      by < 0 ? "Previous step" : "Next step",
    ),
  );
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
  const entries = {
    veil: "dropped (the last layer cannot read it)",
    came: "swapped in at this step",
    gone: "swapped out",
    look: "most attended (mean over layers)",
    needed: "needed now",
  };
  return el(
    "ul",
    { class: "legend" },
    ...Object.entries(entries).map(([kind, text]) =>
      el("li", {}, el("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), text),
    ),
  );
}

/** The question, its reference and what is known of it. */
function question(sample) {
  const facts = [
    ["Category", sample.category],
    ["Reference", sample.answer],
  ].filter(([, value]) => value);
  return el(
    "div",
    { class: "question" },
    el("p", { class: "asked", lang: "" }, sample.question ?? "The question is not here."),
    el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
  );
}
