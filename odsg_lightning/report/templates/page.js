"use strict";
// Sorts, filters and pages through the objects. Without it the page shows all of them, worst first: an object's content
// stands in a <noscript>, which is mere text to a browser with scripts until the object is shown.
(() => {
  const form = document.getElementById("controls");
  const list = document.getElementById("cards");
  const fields = form.elements;
  const cards = Array.from(list.children);
  let order = cards;
  let page = 0;
  const reverse = fields.namedItem("reverse");
  const pager = document.getElementById("pager");
  const [previous, next] = pager.querySelectorAll("button");
  const count = document.getElementById("count");

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

  function fill(card) {
    const content = card.querySelector(":scope > noscript");
    if (content) card.innerHTML = content.textContent;
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
    const fitting = order.filter(fits);
    const size = Number(value("size")) || Math.max(cards.length, 1);
    const pages = Math.max(1, Math.ceil(fitting.length / size));
    page = Math.min(page, pages - 1);
    const kept = new Set(fitting), here = new Set(fitting.slice(page * size, (page + 1) * size));
    for (const card of cards) {
      card.hidden = !kept.has(card);
      card.classList.toggle("elsewhere", !here.has(card)); // paper has room for all of them
    }
    here.forEach(fill);
    const range = `${page * size + 1} to ${Math.min((page + 1) * size, fitting.length)} of ${fitting.length} shown`;
    const some = fitting.length < cards.length ? `, ${cards.length} in all` : "";
    count.textContent = pages > 1 ? range + some : `${fitting.length} of ${cards.length} shown`;
    pager.hidden = pages < 2;
    pager.querySelector("span").textContent = `Page ${page + 1} of ${pages}`;
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
    document.getElementById("none").hidden = fitting.length > 0;
  }

  function turn(step) {
    page += step;
    update();
    count.focus(); // where the page begins; the button is far below now
    count.scrollIntoView();
  }

  function start() {
    page = 0;
    update();
  }

  form.addEventListener("input", start);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    reverse.setAttribute("aria-pressed", "false");
    setTimeout(start); // the fields are reset after this event
  });
  reverse.addEventListener("click", () => {
    reverse.setAttribute("aria-pressed", String(reverse.getAttribute("aria-pressed") !== "true"));
    start();
  });
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  addEventListener("beforeprint", () => order.filter(fits).forEach(fill));
  form.hidden = false;
  update(); // a browser that goes back fills the fields in again
})();
