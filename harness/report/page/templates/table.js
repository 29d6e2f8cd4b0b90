"use strict";
// The leaderboard: sections that are sorted and filtered.
const PAGE = 100; // rows that are drawn at first, and with every "show more"

/** The first number of a text, such as 97.5 of "97.5 [96, 99]"; NaN without one. */
function leading(text) {
  return Number.parseFloat(text.replace(/^</, ""));
}

/** One section of the leaderboard: {element, sort(column), filter(asked)}. */
function board(section) {
  let sorted = { column: -1, down: false };
  let rows = section.rows;
  let kept = rows;
  let drawn = PAGE;

  const heads = section.columns.map((column, i) =>
    el(
      "th",
      { scope: "col", class: kind(column) },
      el(
        "button",
        { type: "button", click: () => sort(i) },
        column.head,
        el("span", { class: "arrow", "aria-hidden": "true" }),
      ),
    ),
  );
  const body = el("tbody");
  const count = el("p", { class: "count" });
  const more = el(
    "button",
    {
      type: "button",
      click: () => {
        drawn += PAGE;
        draw();
      },
    },
    "Show more",
  );
  const scroll = el(
    "div",
    { class: "scroll", role: "region", tabindex: "0", "aria-label": section.title },
    el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body),
  );
  const element = el("section", { class: "board" }, el("h3", {}, section.title), scroll, count, more);

  function kind(column) {
    return [column.left ? "left" : null, column.key ? "key" : null].filter(Boolean).join(" ");
  }

  function cell(text, column) {
    const first = section.columns[0] === column;
    return el(
      first ? "th" : "td",
      { class: kind(column), scope: first ? "row" : null },
      column.left && !column.key ? verdict(text) : text,
    );
  }

  function draw() {
    body.replaceChildren(
      ...kept
        .slice(0, drawn)
        .map((row) =>
          el(
            "tr",
            { class: row.method === "none" ? "full" : null },
            ...row.texts.map((text, i) => cell(text, section.columns[i])),
          ),
        ),
    );
    count.textContent = `${Math.min(drawn, kept.length)} of ${rows.length} rows`;
    count.hidden = kept.length === rows.length && drawn >= kept.length;
    more.hidden = drawn >= kept.length;
    element.hidden = kept.length === 0;
  }

  /** Sort by a column; the same again turns the order round. What has no value stays last. */
  function sort(i) {
    const text = section.columns[i].left;
    const down = sorted.column === i ? !sorted.down : !text;
    sorted = { column: i, down };
    const sign = down ? -1 : 1;
    const keyed = kept.map((row) => ({ row, key: text ? row.texts[i].toLowerCase() : leading(row.texts[i]) }));
    keyed.sort((a, b) => {
      if (Number.isNaN(a.key) || Number.isNaN(b.key)) return Number.isNaN(a.key) - Number.isNaN(b.key);
      return a.key < b.key ? -sign : a.key > b.key ? sign : 0;
    });
    kept = keyed.map(({ row }) => row);
    heads.forEach((head, k) => {
      if (k === i) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      head.querySelector(".arrow").textContent = k === i ? (down ? " ▼" : " ▲") : "";
    });
    draw();
  }

  /** Keep rows of a model, a benchmark and a method, whose texts hold all words; returns how many. */
  function filter({ model, benchmark, method, text }) {
    const here = (!model || model === section.model) && (!benchmark || benchmark === section.benchmark);
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => {
      row.search ??= `${section.title} ${row.texts.join(" ")}`.toLowerCase();
      return (!method || method === row.method) && words.every((word) => row.search.includes(word));
    };
    kept = here ? rows.filter(fits) : [];
    drawn = PAGE;
    if (sorted.column >= 0) {
      sorted.down = !sorted.down; // sort() turns it back
      sort(sorted.column);
    } else draw();
    return kept.length;
  }

  draw();
  return { element, sort, filter };
}

(function leaderboard() {
  const form = document.getElementById("filter");
  const boards = data.board.map(board);
  boards.forEach(({ element }, i) =>
    document.getElementById(data.board[i].selfTest ? "selfTest" : "real").append(element),
  );
  for (const [key, values] of Object.entries(data.choices))
    offer(
      form.elements[key],
      values.map((v) => [v, v]),
    );
  function filter() {
    const asked = Object.fromEntries(new FormData(form));
    const found = boards.reduce((sum, one) => sum + one.filter(asked), 0);
    document.getElementById("found").textContent = `${found} row${found === 1 ? "" : "s"}`;
  }
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
})();
