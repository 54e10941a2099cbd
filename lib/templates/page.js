"use strict";
// The filter of the claims, kept in the address; buttons that copy. Without this script everything is shown.
(() => {
  const form = document.getElementById("filter");
  const paper = document.getElementById("filter-paper");
  const words = document.getElementById("filter-words");
  const chips = [...form.querySelectorAll("button[data-verdict]")];
  const groups = [...document.querySelectorAll("tbody.paper")];
  const rows = [...document.querySelectorAll("tr.claim")];
  const count = document.getElementById("claims-count");
  const NAME = "claims?";

  const chosen = () => chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map((chip) => chip.dataset.verdict);

  function show() {
    const verdicts = chosen();
    const sought = words.value.trim().toLowerCase();
    let shown = 0;
    for (const group of groups) {
      let any = false;
      for (const row of group.querySelectorAll("tr.claim")) {
        const fits = (!paper.value || group.dataset.paper === paper.value) &&
          (!verdicts.length || verdicts.includes(row.dataset.verdict)) &&
          (!sought || row.querySelector(".statement").textContent.toLowerCase().includes(sought));
        row.hidden = !fits;
        any = any || fits;
        shown += fits;
      }
      group.hidden = !any;
    }
    count.textContent = `${shown} of ${rows.length} claims shown`;
  }

  function keep() {
    const state = new URLSearchParams();
    if (paper.value) state.set("paper", paper.value);
    if (chosen().length) state.set("verdict", chosen().join(","));
    if (words.value.trim()) state.set("words", words.value.trim());
    history.replaceState(null, "", "#" + (state.size ? NAME + state : "claims"));
  }

  function take() {
    const hash = location.hash.slice(1);
    if (hash.startsWith(NAME)) {
      const state = new URLSearchParams(hash.slice(NAME.length));
      paper.value = state.get("paper") || "";
      if (paper.selectedIndex < 0) paper.value = "";
      const verdicts = (state.get("verdict") || "").split(",");
      for (const chip of chips) chip.setAttribute("aria-pressed", String(verdicts.includes(chip.dataset.verdict)));
      words.value = state.get("words") || "";
    } else {
      const target = hash && document.getElementById(hash);
      if (target && target.hidden) clear();
    }
    show();
  }

  function clear() {
    paper.value = words.value = "";
    for (const chip of chips) chip.setAttribute("aria-pressed", "false");
    show();
  }

  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      show();
      keep();
    });
  }
  for (const field of [paper, words]) field.addEventListener("input", () => { show(); keep(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("filter-reset").addEventListener("click", () => { clear(); keep(); });
  addEventListener("hashchange", () => {
    take();
    const hash = location.hash.slice(1);
    const target = hash.startsWith(NAME) ? document.getElementById("claims") : document.getElementById(hash);
    if (target) target.scrollIntoView();
  });
  form.hidden = false;
  take();
  if (location.hash.startsWith("#" + NAME)) document.getElementById("claims").scrollIntoView();

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
