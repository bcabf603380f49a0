/* The overview: brings the page and its charts up to date, and follows its filters. */
"use strict";
{
  const {make, link, morphChildren} = durableElements;
  const root = document.getElementById("dt-overview");
  const texts = JSON.parse(root.dataset.texts);
  const EVERY = 5000, LONGEST = 60000, PATIENCE = 15000;
  let state = JSON.parse(root.dataset.state);
  const drawCharts = durableCharts(root, texts, state);

  // The parts: each as the template has it --------------------------------------------------------

  function tile(each) {
    return make("li", {
      class: each.level ? `dt-tile dt-tile--${each.level}` : "dt-tile",
      "data-key": each.key, title: each.title,
    }, link(each.href, each.label), make("strong", null, make("span", null, each.value), make("small", null, each.unit)),
    make("em", null, each.note));
  }

  function notice(each) {
    return make("li", {class: `dt-notice dt-notice--${each.level}`, "data-key": each.key},
      link(each.href, each.text), each.code && make("code", null, each.code));
  }

  function cell(each) {
    const td = make("td", {class: each.class, title: each.title});
    if (each.href || each.text) td.append(link(each.href, each.text));
    if (each.pill) {
      td.append(make("span", {class: `dt-status dt-status--${each.pill[0]}`}, each.pill[1]));
    }
    if (each.sub) td.append(make("small", null, each.sub));
    if (each.spark) {
      td.append(make("svg", {viewBox: "0 0 96 20", width: "96", height: "20", "aria-hidden": "true"},
        make("polyline", {points: each.spark})));
    }
    for (const act of each.acts || []) {
      td.append(link(act.href, act.text, `dt-button dt-button--${act.name}`));
    }
    return td;
  }

  function showTable(table) {
    const part = root.querySelector(`[data-table="${table.key}"]`);
    part.querySelector("table").hidden = !table.rows.length;
    morphChildren(part.querySelector("thead tr"), table.columns.map((column) =>
      make("th", {scope: "col", class: column.number && "dt-number"}, column.text)));
    morphChildren(part.querySelector("tbody"), table.rows.map((row) =>
      make("tr", {"data-key": row.key}, ...row.cells.map(cell))));
    for (const [name, text, hidden] of [
      ["more", table.more, !table.more], ["empty", table.empty, table.rows.length > 0],
    ]) {
      const line = part.querySelector(`.dt-${name}`);
      if (line.textContent !== text) line.textContent = text;
      line.hidden = hidden;
    }
  }

  function show() {
    const focused = document.activeElement;
    morphChildren(root.querySelector(".dt-notices"), state.notices.map(notice));
    morphChildren(root.querySelector(".dt-tiles"), state.tiles.map(tile));
    state.tables.forEach(showTable);
    drawCharts(state);
    // A row that moved has lost the focus.
    if (focused !== document.activeElement && focused.isConnected) focused.focus({preventScroll: true});
  }

  // Refreshing --------------------------------------------------------------------------------------

  const live = root.querySelector(".dt-live"), button = live.querySelector("button");
  const age = live.querySelector(".dt-live__age"), problem = root.querySelector(".dt-problem");
  let paused = false, timer = 0, wait = EVERY, asked = false, updated = Date.now();

  function tell(text) {
    if (problem.textContent !== text) problem.textContent = text;
    problem.hidden = !text;
    live.classList.toggle("dt-live--away", Boolean(text));
  }

  function tellAge() {
    const seconds = Math.max(0, Math.round((Date.now() - updated) / 1000));
    const text = texts.updated.replace("%s", seconds);
    age.textContent = paused ? `${texts.paused}, ${text}` : text;
  }

  function later(milliseconds) {
    clearTimeout(timer);
    if (!paused && !document.hidden) timer = setTimeout(refresh, milliseconds);
  }

  async function refresh() {
    if (asked) return;
    asked = true;
    try {
      const answer = await fetch(root.dataset.endpoint, {
        headers: {Accept: "application/json"}, credentials: "same-origin", cache: "no-store",
        redirect: "manual", signal: AbortSignal.timeout(PATIENCE),
      });
      if (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403) {
        wait = LONGEST;
        tell(texts.denied);
      } else if (!answer.ok) {
        throw new Error(String(answer.status));
      } else {
        const fresh = await answer.json();
        const same = fresh.period === state.period && fresh.charts.length === state.charts.length;
        state = same ? fresh : state;
        wait = EVERY;
        updated = Date.now();
        tell("");
        show();
      }
    } catch {
      wait = Math.min(wait * 2, LONGEST);
      tell(texts.away.replace("%s", wait / 1000));
    } finally {
      asked = false;
      tellAge();
      later(wait);
    }
  }

  button.addEventListener("click", () => {
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? texts.resume : texts.pause;
    live.classList.toggle("dt-live--paused", paused);
    tellAge();
    later(0);
  });

  document.addEventListener("visibilitychange", () => {
    later(Math.max(0, wait - (Date.now() - updated)));
  });

  // The filters: each change leads to an address of its own.
  const form = root.querySelector(".dt-filters");
  form.querySelector("button").hidden = true;
  form.addEventListener("change", () => {
    const asked = [...new FormData(form)].filter(([, value]) => value);
    location.assign(`?${new URLSearchParams(asked)}`);
  });

  drawCharts(state);
  if (root.dataset.endpoint) {
    live.hidden = false;
    setInterval(tellAge, 1000);
    tellAge();
    later(EVERY);
  }
}
