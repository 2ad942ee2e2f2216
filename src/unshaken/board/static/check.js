// Checks that a result is consistent: the same as unshaken/board/check.py, with the same messages.
"use strict";
(function (B) {
  const NEEDED = ["method", "mode", "data", "standard", "robust", "seeds", "seconds", "weights", "evaluation", "finetune",
    "pretrain"];
  const quoted = (word) => `'${word}'`;

  /** What is wrong with a result (a Map of hash.js), in one line; null if nothing is. */
  function fault(node) {
    try {
      for (const wrong of faults(node)) return wrong;
      return null;
    } catch (error) {
      return `it is not a result of this layout (${error.message})`;
    }
  }

  function* faults(node) {
    if (!(node instanceof Map)) { yield "it is not a result: it is no JSON object"; return; }
    for (const key of NEEDED) {
      if (!node.has(key)) { yield `it is not a result: it has no ${quoted(key)}`; return; }
    }
    const result = B.plain(node), version = result.version === undefined ? 1 : result.version;
    if (version !== 1 && version !== 2) {
      yield `its layout is version ${version}, and this program knows 1 and 2`;
      return;
    }
    const limit = result.evaluation.limit, total = limit == null ? result.data.n : Math.min(limit, result.data.n);
    for (const [name, score] of scores(result)) yield* scoreFaults(name, score, total);
    yield* orderFaults(result);
    yield* seedFaults(result);
    yield* digestFaults(node, result, version);
  }

  function* scores(result) {
    yield ["standard", result.standard];
    yield ["robust", result.robust];
    if (result.autoattack) {
      yield ["autoattack", result.autoattack];
      for (const [name, stage] of Object.entries(result.autoattack.stages || {})) yield [`autoattack ${name}`, stage];
    }
    for (const [name, by] of Object.entries(result.corruptions || {})) {
      for (const [level, score] of Object.entries(by)) yield [`${name}/${level}`, score];
    }
  }

  function textFault(text, n) {
    const raw = B.bytes(text);
    if (!raw) return "are not base 64";
    if (raw.length !== Math.ceil(n / 8)) return `are ${8 * raw.length}, and there are ${n} images`;
    if (n % 8 && raw[raw.length - 1] & (0xff >> n % 8)) return "go on after the last image";
    return null;
  }

  function* scoreFaults(name, score, total) {
    if (typeof score !== "object" || score === null) throw new Error(`${name} is no score`);
    const of = score.of === undefined ? score.n : score.of;
    if (of !== total) { yield `${name}: it speaks of ${of} images, and the set has ${total}`; return; }
    for (const key of ["bits", "judged"]) {
      const wrong = key in score || key === "bits" ? textFault(score[key], of) : null;
      if (wrong) { yield `${name}: its ${key} ${wrong}`; return; }
    }
    const bits = B.unpack(score.bits, of), judged = score.judged ? B.unpack(score.judged, of) : null;
    let right = 0, seen = 0, stray = false;
    for (let i = 0; i < of; i++) {
      right += bits[i];
      seen += judged ? judged[i] : 1;
      stray = stray || (judged && bits[i] && !judged[i]);
    }
    if (seen !== score.n) yield `${name}: it says that ${score.n} images were judged, and its bits say ${seen}`;
    if (right !== score.correct) yield `${name}: it counts ${score.correct} right answers, and its bits ${right}`;
    if (stray) yield `${name}: an image is right that was not judged`;
    if (!(score.n > 0)) { yield `${name}: no image was judged`; return; }
    if (Math.abs(score.percent - 100 * score.correct / score.n) > 0.0051) {
      yield `${name}: ${score.percent.toFixed(2)} % is not ${score.correct} of ${score.n}`;
    }
    const [low, high] = B.wilson(score.correct, score.n);
    if (Math.max(Math.abs(score.interval95[0] - 100 * low), Math.abs(score.interval95[1] - 100 * high)) > 0.0151) {
      yield `${name}: its interval is not that of ${score.correct} of ${score.n}`;
    }
  }

  function* orderFaults(result) {
    const chains = [[["standard", result.standard], ["robust", result.robust]]];
    if (result.autoattack) {
      const stages = Object.entries(result.autoattack.stages || {});
      chains.push([["standard", result.standard], ...stages]);
      if (stages.length && stages[stages.length - 1][1].bits !== result.autoattack.bits) {
        yield "autoattack: its bits are not those of its last stage";
      }
    }
    for (const chain of chains) {
      for (let k = 1; k < chain.length; k++) {
        const [[before, a], [after, b]] = [chain[k - 1], chain[k]], of = a.of || a.n;
        if (of !== (b.of || b.n)) continue;
        const judged = a.judged ? B.unpack(a.judged, of) : new Uint8Array(of).fill(1);
        const x = B.unpack(a.bits, of), y = B.unpack(b.bits, of);
        if (y.some((bit, i) => bit && judged[i] && !x[i])) {
          yield `${after}: an image is right that was wrong before it (${before})`;
        }
      }
    }
    const stored = result.corruption_accuracy || {}, means = corruptionMeans(result.corruptions || {});
    if (Object.entries(means).some(([key, value]) => key in stored && Math.abs(stored[key] - value) > 0.0051)) {
      yield "corruption_accuracy: its means are not those of its counts";
    }
  }

  const FIFTEEN = ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"];

  function corruptionMeans(by) {
    const found = {};
    for (const level of ["1", "2", "3", "4", "5"]) {
      const counted = FIFTEEN.map((name) => by[name] && by[name][level]).filter(Boolean);
      if (counted.length === 15) found[`CS-${level}`] = B.mean(counted.map((s) => 100 * s.correct / s.n));
    }
    const levels = Object.values(found);
    return levels.length === 5 ? { ...found, mean: B.mean(levels) } : found;
  }

  function* seedFaults(result) {
    const recipes = { pretrain: result.pretrain.recipe.seed, finetune: result.finetune.recipe.seed,
      evaluation: result.evaluation.seed };
    for (const [part, seed] of Object.entries(recipes)) {
      if (result.seeds[part] !== seed) {
        yield `seeds: it says ${result.seeds[part]} for ${part}, and its recipe ${seed}`;
      }
    }
  }

  function* digestFaults(node, result, version) {
    if (version === 2 && "notes" in result && result.notes !== identity(node)) {
      yield `notes: ${result.notes} is not the digest of its evaluation, seed, weights, images and world`;
    }
    if (!("checksum" in result)) {
      yield "checksum: it has none; `unshaken verify --write FILE` adds one, where the file is trusted";
    } else if (result.checksum !== checksum(without(node, "checksum"))) {
      yield "checksum: it is not that of the file: something in it was changed";
    }
  }

  const without = (node, key) => new Map(Array.from(node).filter(([name]) => name !== key));
  const checksum = (node) => B.sha256(B.canonical(node)).slice(0, 32);

  function identity(node) {
    const evaluation = new Map(node.get("evaluation")), severities = B.parse("[1, 2, 3, 4, 5]");
    for (const [key, value] of [["autoattack", "none"], ["corruptions", []], ["severities", severities],
      ["published", null], ["until", null]]) {
      if (evaluation.has(key)) evaluation.set(key, value);
    }
    for (const key of ["autoattack_limit", "attacks", "queries"]) evaluation.delete(key);
    const parts = [B.printed(evaluation), node.get("weights"), node.get("data").get("digest"), B.printed(node.get("world"))];
    return B.blake2b(B.canonical(parts), 4);
  }

  /** Text of a file to { result, beside }. Throws an Error that says, in one line, what is wrong. */
  function read(text) {
    let node = B.parse(text), beside = {};
    if (node instanceof Map && node.has("submission")) {
      if (node.get("checksum") !== checksum(without(node, "checksum"))) {
        throw new Error("checksum: it is not that of the submission: something in it was changed");
      }
      beside = B.plain(without(without(node, "result"), "checksum"));
      node = node.get("result");
    }
    const wrong = fault(node);
    if (wrong) throw new Error(wrong);
    return { result: B.plain(node), beside };
  }

  Object.assign(B, { fault, read, checksum });
})(window.Board);
