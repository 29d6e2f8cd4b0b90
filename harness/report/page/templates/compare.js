"use strict";
// One sample, all chosen methods side by side.
(function compare() {
  const [part] = data.gallery;
  const [sample] = part.samples;
  const panels = part.methods.map((method, i) => panel(sample, method, sample.replies[i], "h2"));
  const moved = player(panels);
  document
    .getElementById("viewer")
    .append(
      question(sample),
      ...(moved ? [moved, legend()] : []),
      el("div", { class: "panels" }, ...panels.map((one) => one.element)),
    );
})();
