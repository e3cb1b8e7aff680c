// The Flows tab: instants in the reader's zone, a page that stays current without moving under the pointer, a few keys.
"use strict";
(() => {
  const EVERY = 2000, AGAIN = 3000, SLOW = 10000, PATIENT = 30000, AWAY = 503;
  const two = (number) => String(number).padStart(2, "0");

  function lasted(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    const pair = (large, name, small, rest) => {
      const left = Math.floor((whole % large) / small);
      return Math.floor(whole / large) + " " + name + (left ? " " + left + " " + rest : "");
    };
    if (whole < 60) return whole + " s";
    if (whole < 3600) return pair(60, "min", 1, "s");
    if (whole < 86400) return pair(3600, "h", 60, "min");
    return pair(86400, "d", 3600, "h");
  }

  function clock(at, exact) {
    const time = two(at.getHours()) + ":" + two(at.getMinutes()) + (exact ? ":" + two(at.getSeconds()) : "");
    const today = new Date();
    if (at.toDateString() === today.toDateString()) return time;
    const year = at.getFullYear() === today.getFullYear() ? "" : at.getFullYear() + "-";
    return year + two(at.getMonth() + 1) + "-" + two(at.getDate()) + " " + time;
  }

  // The server's clock may differ from the reader's: running times are counted from what the server wrote.
  function tell(element) {
    const at = new Date(element.dateTime), kind = element.dataset.kind;
    if (kind === "clock" || kind === "minute") { write(element, clock(at, kind === "clock")); return; }
    if (element.told !== element.dateTime) {
      element.told = element.dateTime;
      element.base = seconds(element.textContent);
      element.from = performance.now();
    }
    const passed = (performance.now() - element.from) / 1000;
    if (passed < 0.5) return;
    const shown = kind === "left" ? element.base - passed : element.base + passed;
    write(element, lasted(shown) + (kind === "ago" ? " ago" : ""));
  }

  function seconds(text) {
    const units = { ms: 0.001, s: 1, min: 60, h: 3600, d: 86400 };
    let total = 0;
    for (const [, number, unit] of text.matchAll(/([\d.]+) (ms|s|min|h|d)\b/g)) total += number * units[unit];
    return total;
  }

  function write(element, text) { if (element.textContent !== text) element.textContent = text; }
  function tellAll() { document.querySelectorAll(".fl time").forEach(tell); }

  let failures = 0, newer = null;
  const live = () => document.querySelector("[data-live]");

  async function poll() {
    let pause = EVERY;
    if (!document.hidden && live()) {
      const address = new URL(location.href);
      address.hash = "";
      address.searchParams.set("live", live().dataset.version);
      try {
        const answer = await fetch(address, { headers: { "X-Requested-With": "fetch" }, redirect: "error" });
        if (answer.status === 200) take(await answer.text());
        else if (answer.status === AWAY) pause = AGAIN;
        else if (answer.status !== 204) throw new Error(answer.status);
        failures = 0;
      } catch {
        failures += 1;
        pause = Math.min(PATIENT, EVERY * 2 ** failures);
      }
      const lost = document.getElementById("fl-lost");
      lost.hidden = pause !== AGAIN && failures < 2;
      write(lost, (pause === AGAIN ? "Redis" : "Flower") + " does not answer; trying again");
    } else pause = 500;
    if (live() && !live().dataset.version.includes("~") && document.querySelector(".fl-head")) pause = Math.max(pause, SLOW);
    setTimeout(poll, pause);
  }

  function take(html) {
    const next = new DOMParser().parseFromString(html, "text/html").querySelector("[data-live]");
    if (!next) return;
    const rows = live().querySelector("[data-rows]");
    if (rows && isBusy(rows)) { refresh(rows, next); return; }
    newer = null;
    morph(next);
  }

  // Somebody points at a row or has chosen some: rows stay where they are, and only what they say changes.
  function isBusy(rows) {
    return rows.matches(":hover") || rows.contains(document.activeElement) || rows.querySelector("input:checked");
  }

  function refresh(rows, next) {
    newer = next;
    let count = 0;
    for (const row of next.querySelectorAll("[data-rows] > tr")) {
      const old = document.getElementById(row.id);
      if (!old) count += 1;
      else merge(old, row.cloneNode(true));
    }
    const button = live().querySelector("[data-newer]");
    button.hidden = count === 0;
    button.firstElementChild.textContent = count + (count === 1 ? " newer run" : " newer runs");
    live().dataset.version = next.dataset.version;
  }

  function merge(old, next) {
    next.querySelectorAll("time").forEach((each) => { if (each.dataset.kind === "clock" || each.dataset.kind === "minute") tell(each); });
    Idiomorph.morph(old, next, {
      morphStyle: "outerHTML",
      ignoreActiveValue: true,
      callbacks: {
        beforeAttributeUpdated: (name, node) => !(name === "open" && node.tagName === "DETAILS") && !(name === "checked"),
        beforeNodeMorphed: (node, other) => !(node.matches?.("input:not([type=hidden]), textarea") && other.tagName === node.tagName),
        afterNodeMorphed: (node) => { if (node.tagName === "TIME") node.told = null; },
      },
    });
  }

  function morph(next) { merge(live(), next); tellAll(); }

  // Fields for an instant are in UTC on the wire and in the reader's zone on the screen.
  function localise(field) {
    if (!field.value || field.dataset.told) return;
    const at = new Date(field.value + "Z");
    field.value = new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, field.value.length);
    field.dataset.told = "1";
  }
  document.querySelectorAll("[data-instant]").forEach(localise);
  document.addEventListener("formdata", (event) => {
    for (const field of event.target.querySelectorAll("[data-instant]")) {
      if (field.value) event.formData.set(field.name, new Date(field.value).toISOString());
    }
  });

  // The list of spans gives way to two instants.
  function between(list) {
    const from = document.querySelector("[name=until]").cloneNode();
    from.name = list.name;
    list.replaceWith(from);
    document.querySelector("[name=until]").parentElement.hidden = false;
    from.focus();
  }

  document.addEventListener("change", (event) => {
    const target = event.target;
    if (target.matches("[data-between]") && target.value === "between") { between(target); return; }
    if (target.matches("[data-submit]")) target.form.requestSubmit();
    if (target.matches("[data-all]")) {
      document.querySelectorAll("[data-rows] input[name=run]").forEach((box) => { box.checked = target.checked; });
    }
    if (target.matches("[data-all], [name=run]")) {
      const count = document.querySelectorAll("[data-rows] input:checked").length;
      const words = count ? "For " + count + (count === 1 ? " chosen run:" : " chosen runs:") : "For all that pass the filter:";
      write(document.querySelector("[data-chosen]"), words);
    }
  });

  document.addEventListener("click", (event) => {
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      const text = document.getElementById(copy.dataset.copy).textContent;
      if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => write(copy, "copied"));
      else getSelection().selectAllChildren(document.getElementById(copy.dataset.copy));
    }
    if (event.target.closest("[data-show-newer]") && newer) { morph(newer); newer = null; }
    for (const open of document.querySelectorAll(".fl-ask[open]")) {
      if (!open.contains(event.target)) open.open = false;
    }
    // A node of the graph or of the timeline changes the panel only: the page stays where it is.
    const node = event.target.closest("a[data-node]");
    if (node && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      const address = node.getAttribute("href");
      history.pushState(null, "", address);
      reload();
    }
  });

  async function reload() {
    const address = new URL(location.href);
    address.hash = "";
    address.searchParams.set("live", "-");
    try {
      const answer = await fetch(address, { headers: { "X-Requested-With": "fetch" }, redirect: "error" });
      if (answer.status !== 200) throw new Error(answer.status);
      take(await answer.text());
    } catch { location.reload(); }
  }
  window.addEventListener("popstate", () => { if (live()) reload(); });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.querySelectorAll(".fl-ask[open]").forEach((open) => { open.open = false; open.firstElementChild.focus(); });
    if (event.target.closest("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && document.querySelector(".fl-filters [type=search]")) {
      event.preventDefault();
      document.querySelector(".fl-filters [type=search]").focus();
    }
    if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
  });

  function step(by) {
    const links = [...document.querySelectorAll("[data-rows] td:nth-last-child(6) a:first-child, .fl-tl .name")];
    if (!links.length) return;
    const at = links.indexOf(document.activeElement);
    links[Math.min(links.length - 1, Math.max(0, at + by))].focus();
  }

  // A page that Redis did not answer comes back when it does.
  async function retry() {
    try {
      const answer = await fetch(location.href, { headers: { "X-Requested-With": "fetch" }, redirect: "error" });
      if (answer.status !== AWAY) { location.reload(); return; }
    } catch { /* Flower itself is away: asked again */ }
    setTimeout(retry, AGAIN);
  }
  if (document.querySelector("[data-retry]")) setTimeout(retry, AGAIN);

  tellAll();
  setInterval(tellAll, 1000);
  if (live()) setTimeout(poll, EVERY);
})();
