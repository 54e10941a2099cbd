"use strict";
// Search and filter, kept in the address; tables that sort; buttons that copy. Without this script everything is shown.
(() => {
  const NAME = "find?";
  const search = document.getElementById("search");
  const words = document.getElementById("words");
  search.hidden = false;

  // ---- search and filter, on the front page; the others send what is sought there
  if (search.dataset.home) {
    search.addEventListener("submit", (event) => {
      event.preventDefault();
      location.href = search.dataset.home + "#" + NAME + new URLSearchParams({ words: words.value.trim() });
    });
  } else {
    const form = document.getElementById("filter");
    const paper = document.getElementById("filter-paper");
    const chips = [...form.querySelectorAll("button[data-verdict]")];
    const groups = [...document.querySelectorAll("section.paper")];
    const things = [...document.querySelectorAll(".thing")];
    const count = document.getElementById("count");
    const plain = (text) => " " + text.toLowerCase().replace(/[-_()]/g, "").replace(/\s+/g, " ").trim();
    const text = new Map(things.map((thing) => [thing, plain(thing.textContent + " " + thing.dataset.words)]));
    const chosen = () => chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map((chip) => chip.dataset.verdict);

    const show = () => {
      const verdicts = chosen();
      const sought = plain(words.value).split(" ").filter(Boolean).map((word) => " " + word);  // what words begin with
      const number = { figure: 0, claim: 0 };
      for (const group of groups) {
        let any = false;
        for (const thing of group.querySelectorAll(".thing")) {
          const fits = (!paper.value || group.dataset.paper === paper.value) &&
            (!verdicts.length || verdicts.some((verdict) => thing.dataset.verdict.split(" ").includes(verdict))) &&
            sought.every((word) => text.get(thing).includes(word));
          thing.hidden = !fits;
          any = any || fits;
          number[thing.classList.contains("claim") ? "claim" : "figure"] += fits;
        }
        group.hidden = !any;
      }
      count.textContent = `${number.figure} figures and tables, ${number.claim} claims shown`;
    };

    const keep = () => {
      const state = new URLSearchParams();
      if (paper.value) state.set("paper", paper.value);
      if (chosen().length) state.set("verdict", chosen().join(","));
      if (words.value.trim()) state.set("words", words.value.trim());
      history.replaceState(null, "", "#" + (state.size ? NAME + state : "figures"));
    };

    const set = (state) => {
      paper.value = state.get("paper") || "";
      if (paper.selectedIndex < 0) paper.value = "";
      const verdicts = (state.get("verdict") || "").split(",");
      for (const chip of chips) chip.setAttribute("aria-pressed", String(verdicts.includes(chip.dataset.verdict)));
      words.value = state.get("words") || "";
      show();
    };

    const take = () => {
      const hash = location.hash.slice(1);
      const target = document.getElementById(hash.startsWith(NAME) ? "count" : hash);
      if (hash.startsWith(NAME)) set(new URLSearchParams(hash.slice(NAME.length)));
      else if (target && !target.checkVisibility()) set(new URLSearchParams());
      if (target) target.scrollIntoView();
    };

    for (const chip of chips) {
      chip.addEventListener("click", () => {
        chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
        show();
        keep();
      });
    }
    for (const field of [paper, words]) field.addEventListener("input", () => { show(); keep(); });
    for (const each of [form, search]) each.addEventListener("submit", (event) => event.preventDefault());
    search.addEventListener("submit", () => count.scrollIntoView());
    document.getElementById("filter-reset").addEventListener("click", () => { set(new URLSearchParams()); keep(); });
    addEventListener("hashchange", take);
    form.hidden = false;
    show();
    take();
  }

  // ---- an address of something folded opens it
  const unfold = () => {
    const target = document.getElementById(location.hash.slice(1));
    const folded = target && target.querySelector(":scope > details");
    if (!folded || folded.open) return;
    folded.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", unfold);
  unfold();

  // ---- a table's heads sort its rows: numbers by their size, what is empty last
  const sorted = (table, column, falling) => {
    const worth = (row) => {
      const cell = row.cells[column].textContent.trim();
      const number = cell.match(/^(?:x )?([+\-−]?[\d,]*\.?\d+(?:e[+-]?\d+)?)/i);
      return { cell, number: number ? Number(number[1].replace(/,/g, "").replace("−", "-")) : NaN };
    };
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [row, worth(row)]);
    rows.sort(([, a], [, b]) => {
      if (!a.cell || !b.cell) return Number(!a.cell) - Number(!b.cell);
      const numbers = !Number.isNaN(a.number) && !Number.isNaN(b.number);
      const order = numbers ? a.number - b.number : a.cell.localeCompare(b.cell, "en", { numeric: true });
      return falling ? -order : order;
    });
    body.append(...rows.map(([row]) => row));
  };
  for (const table of document.querySelectorAll("table.grid, table.lines")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      if (head.ariaLabel) button.ariaLabel = head.ariaLabel;
      head.append(button);
      button.addEventListener("click", () => {
        const falling = head.ariaSort === "ascending";
        for (const other of heads) other.ariaSort = null;
        head.ariaSort = falling ? "descending" : "ascending";
        sorted(table, column, falling);
      });
    });
  }

  const said = document.getElementById("copied");
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copies);
      try {
        await navigator.clipboard.writeText(source.textContent);
        said.textContent = `${button.dataset.what} copied`;
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      } catch {
        getSelection().selectAllChildren(source);
        said.textContent = `${button.dataset.what} selected: copy it with the keyboard`;
      }
    });
  }
})();
