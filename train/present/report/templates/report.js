"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Tables: a click or Enter on a heading sorts; numbers by value, what is empty last.
  const compare = (a, b) => {
    const x = Number(a);
    const y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].dataset.sort ?? "";
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === "" || y === "") return (x === "") - (y === "");
          return down ? compare(y, x) : compare(x, y);
        });
        body.append(...rows);
      });
    });
  }

  // The pictures: a slider that wipes from clean over attacked to purified.
  const viewer = document.getElementById("viewer");
  if (viewer) {
    const slider = viewer.querySelector("input[type=range]");
    const layers = all(".layer", viewer);
    const names = layers.map((layer) => layer.dataset.view);
    const edge = viewer.querySelector(".edge");
    const [left, right] = all(".side", viewer);
    const chosen = (name) => viewer.querySelector(`input[name=${name}]:checked`).value;
    const show = () => {
      const at = Number(slider.value);
      const last = layers.length - 1;
      const from = Math.min(Math.floor(at / 100), last - 1);
      const share = at - 100 * from;
      layers.forEach((layer, index) => {
        layer.style.setProperty("--x", chosen("see-image"));
        layer.style.visibility = index === from || index === from + 1 ? "" : "hidden";
        layer.style.clipPath = index === from + 1 ? `inset(0 ${100 - share}% 0 0)` : "";
      });
      edge.style.left = `${share}%`;
      edge.hidden = share === 0 || share === 100;
      left.textContent = share > 0 ? names[from + 1] : "";
      right.textContent = share < 100 ? names[from] : "";
      slider.setAttribute(
        "aria-valuetext",
        share === 0 || share === 100
          ? names[from + (share === 100)]
          : `${share} percent ${names[from + 1]}, the rest ${names[from]}`,
      );
      for (const panel of all(".answers", viewer)) {
        panel.classList.toggle(
          "chosen",
          panel.dataset.image === chosen("see-image") &&
            panel.dataset.network === chosen("see-network"),
        );
      }
    };
    viewer.addEventListener("input", show);
    for (const stop of all("[data-stop]", viewer)) {
      stop.addEventListener("click", () => {
        slider.value = stop.dataset.stop;
        show();
      });
    }
    show();
  }

  // The explorer: what it shows is copied from the table of all settings.
  const explorer = document.getElementById("explorer");
  if (explorer) {
    const knobs = all(".knob", explorer);
    const rows = new Map(all("tr[data-setting]").map((row) => [row.dataset.setting, row]));
    const show = () => {
      let setting = 0;
      for (const knob of knobs) {
        const slider = knob.querySelector("input");
        const ticks = all(".ticks span", knob);
        setting = setting * ticks.length + Number(slider.value);
        ticks.forEach((tick, i) => tick.classList.toggle("now", i === Number(slider.value)));
        slider.setAttribute("aria-valuetext", ticks[slider.value].textContent);
      }
      const row = rows.get(String(setting));
      for (const pair of all(".pair", explorer)) {
        const cell = row.querySelector(`td[data-image="${pair.dataset.image}"]`);
        const picture = pair.querySelector(".result");
        picture.style.setProperty("--x", cell.dataset.x);
        picture.style.setProperty("--y", cell.dataset.y);
        pair.querySelector(".facts").innerHTML = cell.querySelector(".found").innerHTML;
      }
    };
    explorer.addEventListener("input", show);
    show();
  }

  // On paper all is open; afterwards as it was before.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
  });
})();
