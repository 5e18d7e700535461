"use strict";
// Adds to a page that is whole without it: columns that sort, and a filter of the sample completions. Plain DOM calls,
// text in and text out: nothing here makes markup of what a model wrote.
(function () {
  const UNITS = { s: 1, min: 60, h: 3600 };

  function key(text) {
    const plain = text.trim().replace(/\u2212/g, "-");
    if (plain === "" || plain === "\u2013") return { missing: true };
    const parts = plain.match(/^(\d+ (?:h|min|s))(?: \d+ (?:min|s))?$/)
      ? plain.match(/\d+ (?:h|min|s)/g) : null;
    if (parts) {
      return { number: parts.reduce((sum, part) => sum + parseFloat(part) * UNITS[part.split(" ")[1]], 0) };
    }
    const number = plain.match(/^(<)?([+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?)[?\u2020]?(?: ?%| ?\[.*\])?(?: points| tokens| of \d+)?$/i);
    if (number) {
      return { number: parseFloat(number[2].replace(/,/g, "")) - (number[1] ? 1e-9 : 0) };
    }
    return { text: plain };
  }

  function compare(first, second) {
    if ("number" in first && "number" in second) return first.number - second.number;
    if ("number" in first) return -1;
    if ("number" in second) return 1;
    return first.text.localeCompare(second.text, "en", { numeric: true });
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const original = Array.from(body.rows);
    const heads = Array.from(table.tHead.rows[0].cells);
    if (original.length < 2) return;
    heads.forEach(function (head, column) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.title = "Sort by this column";
      head.replaceChildren(button);
      button.addEventListener("click", function () {
        const before = head.getAttribute("aria-sort");
        const next = before === null ? "ascending" : before === "ascending" ? "descending" : null;
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        let rows = original;
        if (next !== null) {
          head.setAttribute("aria-sort", next);
          const sign = next === "ascending" ? 1 : -1;
          const keys = new Map(original.map(function (row) { return [row, key(row.cells[column].textContent)]; }));
          rows = original.slice().sort(function (a, b) {
            const first = keys.get(a), second = keys.get(b);
            if (first.missing || second.missing) return Number(!!first.missing) - Number(!!second.missing);
            return sign * compare(first, second);
          });
        }
        body.append(...rows);
      });
    });
  }

  function filtering(form) {
    const section = document.getElementById(form.dataset.filters);
    const groups = Array.from(section.querySelectorAll("details.sample"));
    const wasOpen = groups.map(function (group) { return group.open; });
    const status = form.querySelector("[role=status]");
    form.hidden = false;

    function apply() {
      const words = form.elements.words.value.trim().toLowerCase();
      const choices = Array.from(form.querySelectorAll("select")).filter(function (one) { return one.value !== ""; });
      const active = words !== "" || choices.length > 0;
      let shown = 0, all = 0;
      groups.forEach(function (group, index) {
        const asked = group.querySelector(".asked").textContent.toLowerCase().includes(words);
        let found = 0;
        group.querySelectorAll(".answer[data-loss]").forEach(function (answer) {
          all += 1;
          const said = answer.querySelector(".said").textContent.toLowerCase().includes(words);
          const fits = choices.every(function (one) { return answer.dataset[one.name] === one.value; });
          answer.hidden = !(fits && (asked || said));
          if (!answer.hidden) found += 1;
        });
        shown += found;
        group.hidden = found === 0;
        group.open = active ? found > 0 : wasOpen[index];
      });
      status.textContent = shown + " of " + all + " completions";
    }

    form.addEventListener("input", apply);
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    form.addEventListener("reset", function () { setTimeout(apply); });
    apply();
  }

  // Where a link leads into something folded, it is unfolded.
  function unfold() {
    const target = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
    for (let around = target; around; around = around.parentElement) {
      if (around.tagName === "DETAILS") around.open = true;
    }
  }

  document.querySelectorAll("table").forEach(sortable);
  document.querySelectorAll("form[data-filters]").forEach(filtering);
  window.addEventListener("hashchange", unfold);
  unfold();
})();
