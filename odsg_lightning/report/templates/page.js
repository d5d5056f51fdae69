"use strict";
// Sorts and filters the objects. Without it the page shows all of them, worst first.
(() => {
  const form = document.getElementById("controls");
  const list = document.getElementById("cards");
  const fields = form.elements;
  const cards = Array.from(list.children);
  let order = cards;
  const reverse = fields.namedItem("reverse");

  const words = (card) => `${card.dataset.category} ${card.dataset.name} ${card.dataset.ids}`.toLowerCase();
  const texts = new Map(cards.map((card) => [card, words(card)]));
  const places = new Map(cards.map((card, place) => [card, place]));
  const value = (name) => fields.namedItem(name)?.value ?? "";

  function fits(card) {
    const { category, status, change } = card.dataset;
    if (value("category") && category !== value("category")) return false;
    if (value("status") && !status.split(" ").includes(value("status"))) return false;
    const drop = parseFloat(value("drop"));
    if (!Number.isNaN(drop) && !(change !== "" && -change >= drop - 1e-9)) return false;
    return value("text").toLowerCase().split(/\s+/).every((word) => texts.get(card).includes(word));
  }

  // Objects without the value come last, in either direction.
  function compare(key, sign) {
    const isText = key === "category" || key === "name";
    return (one, other) => {
      const a = one.dataset[key], b = other.dataset[key];
      if ((a === "") !== (b === "")) return a === "" ? 1 : -1;
      const order = isText ? a.localeCompare(b) : a - b;
      return sign * order || places.get(one) - places.get(other);
    };
  }

  function update() {
    const sign = reverse.getAttribute("aria-pressed") === "true" ? -1 : 1;
    const sorted = [...cards].sort(compare(value("sort"), sign));
    if (sorted.some((card, place) => card !== order[place])) list.append(...sorted); // slow with thousands
    order = sorted;
    let shown = 0;
    for (const card of cards) {
      card.hidden = !fits(card);
      shown += !card.hidden;
    }
    document.getElementById("count").textContent = `${shown} of ${cards.length} shown`;
    document.getElementById("none").hidden = shown > 0;
  }

  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    reverse.setAttribute("aria-pressed", "false");
    setTimeout(update); // the fields are reset after this event
  });
  reverse.addEventListener("click", () => {
    reverse.setAttribute("aria-pressed", String(reverse.getAttribute("aria-pressed") !== "true"));
    update();
  });
  form.hidden = false;
  update(); // a browser that goes back fills the fields in again
})();
