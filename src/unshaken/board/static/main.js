// The view as a value: what is chosen stands in the address, and the page is drawn from that.
"use strict";
(function (B) {
  const { el } = B, $ = (id) => document.getElementById(id), data = B.data;
  const tasks = new Map(data.tasks.map((task) => [task.key, task]));
  B.taskOf = (row) => tasks.get(row.task) || {};
  const START = { task: data.tasks[0].key, mode: "all", sort: "", order: "down", q: "", labels: "", extra: "", cost: "", measured: true, reported: true, together: false, row: "" };
  let state = { ...START }, showAll = () => {}, rows = data.rows;

  function fromAddress() {
    const given = new URLSearchParams(location.hash.slice(1)), found = { ...START };
    for (const key of Object.keys(START)) {
      if (!given.has(key)) continue;
      found[key] = typeof START[key] === "boolean" ? given.get(key) === "1" : given.get(key);
    }
    const row = rows.find((each) => each.id === found.row);
    if (!tasks.has(found.task) || row && !given.has("task")) found.task = row ? row.task : START.task;
    if (!tasks.get(found.task).modes.includes(found.mode)) found.mode = "all";
    if (!["up", "down"].includes(found.order)) found.order = "down";
    return found;
  }

  /** The address of a view: only what differs from the page as it opens. */
  function permalink(change) {
    const next = { ...state, ...change }, out = new URLSearchParams();
    for (const key of Object.keys(START)) {
      const value = next[key];
      if (value !== START[key] || key === "task" && next.row) out.set(key, typeof value === "boolean" ? (value ? "1" : "0") : value);
    }
    return out.toString();
  }
  B.permalink = permalink;

  function go(change) {
    const next = `#${permalink(change)}`;
    history[change.q === undefined ? "pushState" : "replaceState"](null, "", next);
    draw();
  }

  /** AA where enough rows have it, else RA, else SA: what a table opens sorted by. */
  function mainMetric(mine, mode) {
    const measured = mine.filter((r) => r.kind === "measured"), pool = measured.length ? measured : mine;
    const share = (metric) => pool.filter((r) => (B.cellOf(r, mode, metric) || {}).mean !== undefined).length / (pool.length || 1);
    return share("AA") >= 0.5 ? "AA" : share("RA") > 0 ? "RA" : share("AA") > 0 ? "AA" : "SA";
  }

  function draw() {
    const before = state.task + state.mode;
    state = fromAddress();
    const task = tasks.get(state.task), mine = rows.filter((row) => row.task === task.key);
    const first = state.mode === "all" ? task.modes[0] : state.mode;
    const [sortMode, sortMetric] = state.sort.split(".");
    if (!state.sort || sortMetric && state.mode !== "all" && sortMode !== state.mode) state.sort = `${first}.${sortMetric || mainMetric(mine, first)}`;
    state.main = state.sort.startsWith(`${first}.`) && state.sort.split(".")[1] !== "CA" ? state.sort.split(".")[1] : mainMetric(mine, first);
    controls(task);
    const list = B.sorted(B.shown(rows, state), state), shape = B.columns(list, state, task);
    showAll = B.fill($("table"), list, shape, state, choose);
    B.current = { list, shape, task };
    said(task, list);
    if (before !== state.task + state.mode || !$("cards").childElementCount) requestAnimationFrame(() => B.cards($("cards"), task, mine, state));
    const row = state.row && rows.find((each) => each.id === state.row);
    if (row) B.open(row, rows); else if ($("detail").open) $("detail").close();
  }

  function choose(column) {
    const order = state.sort === column ? (state.order === "down" ? "up" : "down") : column === "method" || column === "cost" ? "up" : "down";
    go({ sort: column, order });
    const button = document.querySelector(`[data-sort="${column}"]`);
    if (button) button.focus();
  }

  function said(task, list) {
    const measured = list.filter((row) => row.kind === "measured").length, reported = list.filter((row) => row.kind === "reported").length;
    const [mode, metric] = state.sort.split("."), ranked = metric && list.some((row) => B.rankOf(row, mode, metric));
    const parts = [`${list.length} row${list.length === 1 ? "" : "s"}: ${measured} measured, ${reported} reported.`];
    if (metric) parts.push(`Sorted by ${metric} of ${B.modeName(mode)}.`);
    if (ranked && !state.together) parts.push("Rows with the same rank are beaten by equally many rows: no test tells the top ones apart.");
    if (!list.length) parts.push("No row fits the search and the filters.");
    $("said").textContent = parts.join(" ");
    $("caption").textContent = `${task.title}, ${task.threat}, ${task.network}`;
  }

  function controls(task) {
    const pairs = [...new Set(data.tasks.map((t) => t.title))], group = (title) => data.tasks.filter((t) => t.title === title);
    const option = (value, words, chosen) => el("option", { value, selected: value === chosen }, words);
    const count = (list) => { const n = list.reduce((s, t) => s + t.measured, 0); return n ? `${n} measured` : "reported only"; };
    $("pair").replaceChildren(...pairs.map((title) => option(title, `${title}  (${count(group(title))})`, task.title)));
    const threats = [...new Set(group(task.title).map((t) => t.threat))];
    $("threat").replaceChildren(...threats.map((threat) => option(threat, threat, task.threat)));
    const networks = group(task.title).filter((t) => t.threat === task.threat);
    $("network").replaceChildren(...networks.map((t) => option(t.network, t.network, task.network)));
    const n = task.images.length ? `${task.images.map((k) => k.toLocaleString("en")).join(", ")} test images. ` : "";
    $("task-words").textContent = `${n}${task.measured} rows measured, ${task.reported} reported`;
    const modes = task.modes.length > 1 ? ["all", ...task.modes] : task.modes, pressed = task.modes.length > 1 ? state.mode : task.modes[0];
    $("modes").replaceChildren(...modes.map((mode) => el("button", { type: "button", "aria-pressed": String(mode === pressed), title: B.MODE_WORDS[mode] || "All modes side by side",
      "data-mode": mode, onclick: () => { go({ mode, sort: "", order: "down" }); document.querySelector(`[data-mode="${mode}"]`).focus(); } }, mode === "all" ? "All" : B.modeName(mode))));
    if (document.activeElement !== $("search")) $("search").value = state.q;
    for (const [id, key] of [["labels", "labels"], ["extra", "extra"], ["cost", "cost"]]) if (document.activeElement !== $(id)) $(id).value = state[key];
    for (const [id, key] of [["show-measured", "measured"], ["show-reported", "reported"], ["one-order", "together"]]) $(id).checked = state[key];
    const active = ["labels", "extra", "cost", "measured", "reported", "together"].filter((key) => state[key] !== START[key]).length;
    $("filter-count").hidden = !active;
    $("filter-count").textContent = active || "";
  }

  function toTask(title, threat, network) {
    const near = data.tasks.filter((t) => t.title === title), found = near.find((t) => t.threat === threat && t.network === network) || near.find((t) => t.threat === threat) || near[0];
    go({ task: found.key, mode: "all", sort: "", order: "down", row: "" });
  }

  /** One line a row, mode and score: what is shown, with its source. */
  function flat() {
    return B.current.list.flatMap((row) => Object.entries(row.cells).filter(([mode]) => state.mode === "all" || mode === state.mode).flatMap(([mode, cells]) =>
      Object.entries(cells).map(([metric, cell]) => ({ kind: row.kind, method: row.method, detail: row.detail || "", mode, metric, mean: cell.mean, sd: cell.sd, seeds: cell.seeds, n: cell.n,
        low: cell.low, high: cell.high, rank: B.rankOf(row, mode, metric), status: cell.status, cost_seconds: row.cost.seconds, cost_pflop: row.cost.pflop, labels: row.labels, extra: row.extra,
        date: row.date, source: row.source ? B.data.sources[row.source].title : row.folder, id: row.id }))));
  }

  function csv() {
    const lines = flat(), keys = Object.keys(lines[0] || { method: "" });
    const cell = (value) => { const text = value === undefined || value === null ? "" : String(value); return /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text; };
    return [keys.join(","), ...lines.map((line) => keys.map((key) => cell(line[key])).join(","))].join("\n") + "\n";
  }

  /** A dropped result as a row of its own, in this browser alone. */
  B.addMine = (result, task) => {
    const score = (s) => (s ? { mean: 100 * s.correct / s.n, seeds: 1, low: s.interval95[0], high: s.interval95[1], n: s.n, counts: [[Object.values(result.seeds).join("/"), s.correct, s.n]] } : undefined);
    const cells = { SA: score(result.standard), RA: score(result.robust), AA: score(result.autoattack) };
    for (const key of Object.keys(cells)) if (!cells[key]) delete cells[key];
    rows = rows.filter((row) => !(row.kind === "mine" && row.id === `x-${result.weights}`));
    rows.push({ id: `x-${result.weights}`, kind: "mine", task, method: result.method, detail: "dropped here", cells: { [result.mode]: cells }, ranks: {}, labels: "unknown", extra: "", cost: {}, notes: [], seeds: [] });
    if (state.task === task) draw();
  };

  function listen() {
    $("pair").addEventListener("change", () => toTask($("pair").value, $("threat").value, $("network").value));
    $("threat").addEventListener("change", () => toTask($("pair").value, $("threat").value, $("network").value));
    $("network").addEventListener("change", () => toTask($("pair").value, $("threat").value, $("network").value));
    $("search").addEventListener("input", () => go({ q: $("search").value }));
    for (const id of ["labels", "extra", "cost"]) $(id).addEventListener("input", () => go({ [id]: $(id).value }));
    for (const [id, key] of [["show-measured", "measured"], ["show-reported", "reported"], ["one-order", "together"]]) $(id).addEventListener("change", () => go({ [key]: $(id).checked }));
    $("reset").addEventListener("click", () => go({ labels: "", extra: "", cost: "", measured: true, reported: true, together: false, q: "" }));
    $("csv").addEventListener("click", () => B.save(`${state.task}.csv`, csv(), "text/csv"));
    $("json").addEventListener("click", () => B.save(`${state.task}.json`, JSON.stringify(flat(), null, 1), "application/json"));
    $("link").addEventListener("click", () => { B.copy(location.href); $("link").textContent = "Copied"; setTimeout(() => { $("link").textContent = "Copy a link to this view"; }, 1500); });
    $("print").addEventListener("click", () => print());
    addEventListener("beforeprint", () => showAll());
    addEventListener("hashchange", draw);
    addEventListener("popstate", draw);
    $("detail").addEventListener("close", () => { if (state.row) go({ row: "" }); });
    $("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
    $("table").addEventListener("click", (event) => {
      const line = event.target.closest("tr.row");
      if (line && !event.target.closest("a, button") && !String(getSelection())) go({ row: line.dataset.id });
    });
    addEventListener("keydown", (event) => {
      if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) { event.preventDefault(); $("search").focus(); }
      if (event.key === "Escape") document.querySelectorAll("details.menu[open]").forEach((menu) => { menu.open = false; menu.querySelector("summary").focus(); });
    });
    addEventListener("click", (event) => event.isTrusted && document.querySelectorAll("details.menu[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; }));
    B.listen();
  }

  Object.assign(B, { csv, flat });
  listen();
  draw();
})(window.Board);
