"use strict";
// The sample browser and the theme. Everything that came from data is set as text or as an attribute's value, never
// parsed as markup; the page's policy forbids network access, other scripts and evaluation besides.
(() => {
  const $ = (id) => document.getElementById(id);
  const CORRECT = 1, UNPARSEABLE = 2, TRUNCATED = 4, MALFORMED = 8;
  const PERCEPTION_KNOWN = 16, PERCEPTION = 32, LOGIC_KNOWN = 64, LOGIC = 128;

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // ---- theme
  const THEMES = ["system", "light", "dark"];
  const remembered = { get: () => { try { return localStorage.getItem("prism-theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("prism-theme", value); } catch { /* a page from disk may have none */ } } };
  let theme = THEMES.includes(remembered.get()) ? remembered.get() : "system";

  function showTheme() {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    $("theme").textContent = `Theme: ${theme}`;
  }
  function nextTheme() {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    remembered.set(theme);
    showTheme();
  }
  $("theme").addEventListener("click", nextTheme);
  showTheme();

  // ---- printing shows what is folded
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open]):not(#keys)")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; });

  // ---- sample browser
  const data = JSON.parse($("gallery").textContent);
  if (!data || !$("browser")) return;
  $("browser").hidden = false;
  let shown = [], at = 0;
  const side = { first: data.first, second: data.second };

  function options(select, titles, first) {
    if (first) select.append(new Option(first, "all"));
    titles.forEach((title, index) => select.append(new Option(title, String(index))));
  }
  options($("f-benchmark"), data.benchmarks, "all benchmarks");
  options($("f-first"), data.models);
  options($("f-second"), data.models);

  const bits = (item, model) => (item.v[model] ? item.v[model][1] : null);
  const right = (item, model) => (bits(item, model) & CORRECT) !== 0;
  const text = (item, model) => item.t[item.v[model][0]];

  const FLIPS = {
    all: () => true,
    gain: (a, b) => !a && b,
    loss: (a, b) => a && !b,
    differ: (a, b) => a !== b,
    both: (a, b) => a && b,
    neither: (a, b) => !a && !b,
  };
  const VERDICTS = {
    all: () => true,
    right: (v) => v & CORRECT,
    wrong: (v) => !(v & CORRECT),
    unparseable: (v) => v & UNPARSEABLE,
    truncated: (v) => v & TRUNCATED,
    malformed: (v) => v & MALFORMED,
    judged: (v, row) => row[4] !== "",
    misread: (v) => (v & PERCEPTION_KNOWN) && !(v & PERCEPTION),
    illogical: (v) => (v & PERCEPTION) && !(v & CORRECT),
  };

  function passes(item) {
    const benchmark = $("f-benchmark").value, flip = $("f-flip").value, verdict = $("f-verdict").value;
    if (benchmark !== "all" && item.b !== Number(benchmark)) return false;
    const a = item.v[side.first], b = item.v[side.second];
    if (flip !== "all" && (!a || !b || !FLIPS[flip](right(item, side.first), right(item, side.second)))) return false;
    if (verdict !== "all" && (!b || !VERDICTS[verdict](b[1], b))) return false;
    const wanted = $("f-text").value.trim().toLowerCase();
    return !wanted || [item.i, item.s, item.q, item.r, ...item.t.flat()].some((part) => part && part.toLowerCase().includes(wanted));
  }

  const mark = (item, model) => (item.v[model] ? (right(item, model) ? "✓" : "✗") : "–");

  function filter(keep) {
    side.first = Number($("f-first").value);
    side.second = Number($("f-second").value);
    const before = keep && shown[at];
    shown = data.items.filter(passes);
    at = Math.max(0, shown.indexOf(before));
    const list = $("items");
    list.replaceChildren(...shown.map(row));
    if (!shown.length) list.append(element("li", "none", "No item passes these filters."));
    const whole = data.items.length === data.total ? "" : ` (of ${data.total} evaluated)`;
    $("count").textContent = `${shown.length} of ${data.items.length} items${whole}: ` + tally();
    show();
  }

  function tally() {
    const pairs = shown.filter((item) => item.v[side.first] && item.v[side.second]);
    const count = (flip) => pairs.filter((item) => FLIPS[flip](right(item, side.first), right(item, side.second))).length;
    return `${count("gain")} with A wrong and B right, ${count("loss")} with A right and B wrong, `
      + `${count("both")} both right, ${count("neither")} both wrong.`;
  }

  function row(item, index) {
    const line = element("li");
    line.id = `item-${index}`;
    line.setAttribute("role", "option");
    const marks = `${mark(item, side.first)} ${mark(item, side.second)}`;
    line.append(element("span", "marks", marks), element("span", "", item.i), element("span", "ask", item.q));
    line.addEventListener("click", () => { at = index; show(); });
    return line;
  }

  function show() {
    const list = $("items"), item = shown[at];
    for (const old of list.querySelectorAll("[aria-selected]")) old.removeAttribute("aria-selected");
    $("item").hidden = !item;
    if (!item) { list.removeAttribute("aria-activedescendant"); return; }
    const line = list.children[at];
    line.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", line.id);
    const top = line.offsetTop - list.offsetTop;
    if (top < list.scrollTop || top + line.offsetHeight > list.scrollTop + list.clientHeight) {
      list.scrollTop = top - list.clientHeight / 3;
    }
    $("where").textContent = `${at + 1} of ${shown.length}`;
    $("item-id").textContent = [item.i, data.benchmarks[item.b], item.s].filter(Boolean).join(" · ");
    $("question").textContent = item.q;
    $("reference").textContent = item.r;
    showPictures(item);
    showSide("first", item);
    showSide("second", item);
    showModels(item);
    $("item").scrollTop = 0;
  }

  function showPictures(item) {
    $("pictures").replaceChildren(...item.m.map((index, number) => {
      if (index < 0) return element("p", "note", "The store has no readable preview of this image.");
      const image = element("img");
      image.alt = `Image ${number + 1} of ${item.m.length} of the question`;
      image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= 128));
      image.src = data.images[index];
      return image;
    }));
  }

  function badges(verdict) {
    const list = element("ul", "badges"), [, value, tokens, rule, judged] = verdict;
    const add = (words, kind) => list.append(element("li", `badge ${kind || ""}`, words));
    add(value & CORRECT ? "✓ right" : "✗ wrong", value & CORRECT ? "good" : "bad");
    if (value & PERCEPTION_KNOWN) add(value & PERCEPTION ? "caption right" : "caption wrong", value & PERCEPTION ? "" : "bad");
    if (value & LOGIC_KNOWN) add(value & LOGIC ? "follows from its caption" : "does not follow from its caption", value & LOGIC ? "" : "bad");
    if (value & UNPARSEABLE) add("unparseable", "bad");
    if (value & TRUNCATED) add("truncated", "bad");
    if ((value & MALFORMED) && !(value & UNPARSEABLE)) add("not in the form");
    if (judged) add(`judge: ${judged}`);
    add(`rule: ${data.rules[rule]}`);
    add(`${tokens} tokens`);
    return list;
  }

  const PIECES = /(<\/?(?:caption|think|answer)>)|(\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8})/;

  function response(whole) {
    const block = element("pre");
    block.tabIndex = 0;
    block.dir = "auto";
    for (const piece of whole.split(PIECES)) {
      if (!piece) continue;
      const kind = /^<\/?(?:caption|think|answer)>$/.test(piece) ? "tag" : /^\\[xuU][0-9a-f]+$/.test(piece) ? "escape" : "";
      block.append(kind ? element("span", kind, piece) : document.createTextNode(piece));
    }
    return block;
  }

  function showSide(name, item) {
    const box = $(`side-${name}`), model = side[name];
    const title = element("h4", "", `${name === "first" ? "A" : "B"} · ${data.models[model]}`);
    if (!item.v[model]) { box.replaceChildren(title, element("p", "note", "This model has no response to this item.")); return; }
    const [whole, answer] = text(item, model);
    const said = element("p", "said", answer === null ? "no answer could be taken from it" : "answer: ");
    if (answer !== null) said.append(element("span", "answer", answer));
    box.replaceChildren(title, badges(item.v[model]), said, response(whole));
  }

  function showModels(item) {
    const rows = data.models.map((title, model) => {
      const line = element("tr"), head = element("th"), choose = element("button", "", title), verdict = item.v[model];
      head.scope = "row";
      choose.type = "button";
      choose.addEventListener("click", () => { $("f-second").value = String(model); filter(true); });
      head.append(choose);
      const ok = verdict && right(item, model);
      line.append(head, element("td", verdict ? (ok ? "good-text" : "bad-text") : "", verdict ? (ok ? "✓ right" : "✗ wrong") : "none"));
      line.append(element("td", "", verdict ? text(item, model)[1] ?? "unparseable" : ""), element("td", "number", verdict ? String(verdict[2]) : ""));
      return line;
    });
    $("all-models").tBodies[0].replaceChildren(...rows);
  }

  function go(to) {
    if (!shown.length) return;
    at = Math.min(shown.length - 1, Math.max(0, to));
    show();
  }
  function swap() {
    const first = $("f-first").value;
    $("f-first").value = $("f-second").value;
    $("f-second").value = first;
    filter(true);
  }
  function chooseFlip(value) { $("f-flip").value = value; filter(true); }
  function nextBenchmark() {
    const select = $("f-benchmark");
    select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
    filter(true);
  }
  function startOver() {
    $("filters").reset();
    $("f-first").value = String(data.first);
    $("f-second").value = String(data.second);
    filter(false);
  }

  for (const id of ["f-benchmark", "f-first", "f-second", "f-flip", "f-verdict"]) $(id).addEventListener("change", () => filter(true));
  let waiting = 0;
  $("f-text").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => filter(true), 120); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("clear").addEventListener("click", startOver);
  $("swap").addEventListener("click", swap);
  $("previous").addEventListener("click", () => go(at - 1));
  $("next").addEventListener("click", () => go(at + 1));
  $("items").addEventListener("keydown", (event) => {
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: shown.length - 1, PageDown: at + 10, PageUp: at - 10 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(to);
  });

  const KEYS = {
    j: () => go(at + 1), k: () => go(at - 1), s: swap, b: nextBenchmark, t: nextTheme,
    1: () => chooseFlip("all"), 2: () => chooseFlip("gain"), 3: () => chooseFlip("loss"),
    4: () => chooseFlip("differ"), 5: () => chooseFlip("both"), 6: () => chooseFlip("neither"),
    "/": () => $("f-text").focus(), "?": () => { $("keys").open = !$("keys").open; },
  };
  document.addEventListener("keydown", (event) => {
    const inField = event.target.closest("input:not([type=checkbox]), select, textarea");
    if (inField) {
      if (event.key === "Escape") { event.preventDefault(); $("items").focus(); }
      return;
    }
    if (!$("keys-on").checked || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  startOver();
})();
