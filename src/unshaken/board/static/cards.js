// The cards below the table: frontier, robustness against ε, agreement, hardest images.
"use strict";
(function (B) {
  const { el } = B;
  const nameOf = (row) => (row.detail ? `${row.method}, ${row.detail}` : row.method);
  const card = (title, words, ...content) => el("section", { class: "card" }, el("h2", {}, title), el("p", {}, words),
    el("figure", {}, content));

  /** Everything that the verdict bits of a task and a mode tell beyond the table. */
  function cards(holder, task, rows, state) {
    const mode = state.mode === "all" ? state.sort.split(".")[0] in task.insight ? state.sort.split(".")[0] : task.modes[0] : state.mode;
    const found = [], insight = task.insight[mode] || {}, words = B.modeName(mode), byId = new Map(rows.map((r) => [r.id, r]));
    for (const each of [frontierCard(task, rows, mode, words), epsilonCard(task, insight, words, byId),
      agreementCard(insight, words, byId), hardestCard(insight, words)]) if (each) found.push(each);
    holder.replaceChildren(...found);
  }

  function frontierCard(task, rows, mode, words) {
    const held = (metric) => rows.filter((r) => r.kind === "measured" && r.cost.seconds && B.cellOf(r, mode, metric));
    const metric = held("AA").length > 2 ? "AA" : "RA", points = held(metric).map((row) => {
      const cell = B.cellOf(row, mode, metric);
      return { x: row.cost.seconds, y: cell.mean, sd: cell.sd, name: nameOf(row), href: `#${B.permalink({ row: row.id })}` };
    });
    if (points.length < 3) return null;
    return card(`Frontier: cost against ${metric}`, `${words}. Mean over seeds, bars: ± standard deviation. The dashed line joins the rows that no other beats in cost and in accuracy at once.`,
      B.frontier(points, `${metric}, %`));
  }

  function epsilonCard(task, insight, words, byId) {
    const curves = (insight.epsilon || []).filter((c) => byId.has(c.row)).map((c) => ({ ...c, name: nameOf(byId.get(c.row)) }));
    if (!curves.length) return null;
    return card("Robustness against ε", `${words}. The same networks, attacked at several ε.`, ...B.epsilonLines(curves, task.threat.split(" ")[0]));
  }

  function agreementCard(insight, words, byId) {
    if (!insight.agreement) return null;
    const ids = insight.agreement.rows, keep = ids.map((id, k) => k).filter((k) => byId.has(ids[k]));
    if (keep.length < 2) return null;
    const percent = keep.map((i) => keep.map((j) => insight.agreement.percent[i][j]));
    return card("Agreement", `${words}, ${insight.metric}. On how many images a network of one row and one of the other give the same verdict. Rows in the order of their means.`,
      B.matrix(keep.map((k) => nameOf(byId.get(ids[k]))), percent));
  }

  function hardestCard(insight, words) {
    if (!insight.hardest) return null;
    const { of, images } = insight.hardest, pictures = B.data.pictures[insight.digest] || {};
    const list = images.map(([index, right]) => el("li", {},
      pictures[index] ? el("img", { src: pictures[index].src, alt: pictures[index].alt }) : el("span", { class: "blank" }, `#${index}`),
      el("b", {}, `${right} of ${of}`), el("br"), `image ${index}`));
    return card("Hardest images", `${words}, ${insight.metric}. The test images that fewest of the ${of} networks get right under attack.`, el("ul", { class: "hard" }, list));
  }

  Object.assign(B, { cards, nameOf });
})(window.Board);
