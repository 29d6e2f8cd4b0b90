"use strict";
// The samples of a report, one at a time.
(function gallery() {
  const form = document.getElementById("choose");
  const viewer = document.getElementById("viewer");
  const { section, which, sample } = form.elements;
  let method = null; // the name of the method whose reply is shown, kept from sample to sample

  /** The methods' verdicts, with a button that shows a reply. */
  function verdicts(part, one, chosen, choose) {
    const rows = part.methods.map((own, i) => {
      const reply = one.replies[i];
      const button = el(
        "button",
        { type: "button", "aria-pressed": String(i === chosen), click: () => choose(i) },
        called(own),
      );
      return el(
        "tr",
        {},
        el("th", { scope: "row" }, button),
        el("td", {}, reply ? verdict(reply.verdict) : "not run"),
        el("td", { class: "answer", lang: "" }, reply?.extracted ?? "-"),
        el("td", { class: "number" }, String(reply?.length ?? "-")),
      );
    });
    const head = ["method", "verdict", "answer", "tokens"].map((text) => el("th", { scope: "col" }, text));
    return el(
      "div",
      { class: "scroll", role: "region", tabindex: "0", "aria-label": "Verdicts of all methods" },
      el("table", { class: "verdicts" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)),
    );
  }

  function show() {
    const part = data.gallery[section.value];
    const one = part?.samples[sample.value];
    if (!one || sample.value === "") return viewer.replaceChildren(el("p", {}, "No sample fits."));
    const traced = one.replies.findIndex((reply, i) => reply?.trace && part.methods[i].method !== "none");
    const same = part.methods.findIndex((own) => called(own) === method);
    draw(part, one, same >= 0 ? same : Math.max(0, traced));
  }

  function draw(part, one, chosen) {
    const shown = panel(one, part.methods[chosen], one.replies[chosen], "h4");
    const choose = (i) => {
      method = called(part.methods[i]);
      draw(part, one, i);
      viewer.querySelectorAll(".verdicts button")[i].focus();
    };
    viewer.replaceChildren(
      el("h3", {}, `Sample ${one.id}`),
      question(one),
      el(
        "div",
        { class: "viewer" },
        el("div", {}, player([shown]), shown.element, shown.steps ? legend() : null),
        el(
          "div",
          {},
          verdicts(part, one, chosen, choose),
          el("p", { class: "caption" }, "Side by side: ", el("code", {}, one.command)),
        ),
      ),
    );
    [document.getElementById("before").disabled, document.getElementById("after").disabled] = [
      sample.selectedIndex <= 0,
      sample.selectedIndex >= sample.options.length - 1,
    ];
  }

  function list() {
    const fits = data.gallery[section.value].samples
      .map((one, i) => [one, i])
      .filter(([one]) => !which.value || one[which.value]);
    sample.replaceChildren();
    offer(
      sample,
      fits.map(([one, i]) => [i, one.category ? `${one.id} · ${one.category}` : one.id]),
    );
    show();
  }

  function go(by) {
    sample.selectedIndex += by;
    show();
  }

  offer(
    section,
    data.gallery.map((part, i) => [i, part.title]),
  );
  section.addEventListener("change", list);
  which.addEventListener("change", list);
  sample.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("before").addEventListener("click", () => go(-1));
  document.getElementById("after").addEventListener("click", () => go(1));
  section.value = telling;
  list();
})();
