"use strict";
// What all scripts use: the data, elements, verdicts, the theme.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = new Set(["svg", "image", "g", "rect", "circle", "line", "polyline"]);

/** An element. Strings among its children become text, so that nothing in the data is ever markup. */
function el(name, attributes = {}, ...children) {
  const made = SVG.has(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Fill a select with [value, text] pairs. */
function offer(select, pairs) {
  select.append(...pairs.map(([value, text]) => el("option", { value }, text)));
}

/** A method with its budget. */
function called(method) {
  return method.keep === "-" ? method.label : `${method.label} ${method.keep}`;
}

const SIGNS = {
  worse: "↓",
  better: "↑",
  equivalent: "=",
  inconclusive: "?",
  right: "✓",
  wrong: "✗",
  "partly right": "≈",
  failed: "!",
  unjudged: "…",
};

/** A verdict in words, with a sign; its colour only repeats it. */
function verdict(word) {
  if (!(word in SIGNS)) return word;
  const sign = el("span", { "aria-hidden": "true" }, `${SIGNS[word]} `);
  return el("span", { class: `verdict ${word.replace(" ", "-")}` }, sign, word);
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = root.style.colorScheme ? root.style.colorScheme === "dark" : dark.matches;
  root.style.colorScheme = isDark ? "light" : "dark";
  window.dispatchEvent(new Event("themechange"));
});
dark.addEventListener("change", () => window.dispatchEvent(new Event("themechange")));

/** The section that figures and samples begin with: a real one, else that of the longest replies. */
const telling = data.board?.[0].selfTest
  ? data.figures.reduce((best, { lengths }, i, all) => (longest(lengths) > longest(all[best].lengths) ? i : best), 0)
  : 0;

function longest(cells) {
  return Math.max(0, ...cells.map((cell) => cell.quantiles[4]));
}
