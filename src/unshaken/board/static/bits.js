// Verdict bits and the two paired tests of rows: the same as unshaken/board/paired.py, in the browser.
"use strict";
window.Board = window.Board || {};
(function (B) {
  /** The bytes of base-64 text; null where it is not of that alphabet or not padded as it should be. */
  function bytes(text) {
    if (typeof text !== "string" || text.length % 4 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return null;
    try { return Uint8Array.from(atob(text), (c) => c.charCodeAt(0)); } catch { return null; }
  }

  /** n booleans as 0 and 1, the first in the highest bit of the first byte. */
  function unpack(text, n) {
    const raw = bytes(text), found = new Uint8Array(n);
    for (let i = 0; i < n; i++) found[i] = (raw[i >> 3] >> (7 - (i & 7))) & 1;
    return found;
  }

  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const mean = (values) => sum(values) / values.length;
  function variance(values) {
    const m = mean(values);
    return sum(values.map((v) => (v - m) ** 2)) / (values.length - 1);
  }

  /** ln Γ(x), by Lanczos. */
  function lgamma(x) {
    const c = [76.18009172947146, -86.50532032941677, 24.01409824083091, -1.231739572450155, 0.1208650973866179e-2,
      -0.5395239384953e-5];
    let y = x, tmp = x + 5.5, series = 1.000000000190015;
    tmp -= (x + 0.5) * Math.log(tmp);
    for (const each of c) series += each / ++y;
    return -tmp + Math.log(2.5066282746310005 * series / x);
  }

  /** Two-sided, exact: of the images on which two rows differ each is for either with probability 1/2. */
  function signTest(more, less) {
    const m = more + less, k = Math.min(more, less);
    if (!m) return 1;
    let term = -m * Math.LN2, total = 0;
    const logs = [];
    for (let i = 0; i <= k; i++) {
      logs.push(term);
      term += Math.log(m - i) - Math.log(i + 1);
    }
    const top = Math.max(...logs);
    for (const each of logs) total += Math.exp(each - top);
    return Math.min(1, 2 * Math.exp(top) * total);
  }

  function incompleteBeta(a, b, x) {
    if (!(x > 0 && x < 1)) return x >= 1 ? 1 : 0;
    if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(b, a, 1 - x);
    const front = Math.exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * Math.log(x) + b * Math.log(1 - x)) / a;
    const tiny = 1e-300;
    let c = 1, d = 1 / (1 - (a + b) * x / (a + 1) || tiny), found = d;
    for (let m = 1; m < 300; m++) {
      const tops = [m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
        -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))];
      for (const top of tops) {
        d = 1 / (1 + top * d || tiny);
        c = 1 + top / c || tiny;
        found *= c * d;
      }
      if (Math.abs(c * d - 1) < 1e-15) break;
    }
    return front * found;
  }

  /** Welch's test of the seeds' accuracies; null where a row has one seed. */
  function welch(a, b) {
    if (Math.min(a.length, b.length) < 2) return null;
    const va = variance(a) / a.length, vb = variance(b) / b.length;
    if (va + vb === 0) return mean(a) === mean(b) ? 1 : 0;
    const t = (mean(a) - mean(b)) / Math.sqrt(va + vb);
    const degrees = (va + vb) ** 2 / (va ** 2 / (a.length - 1) + vb ** 2 / (b.length - 1));
    return incompleteBeta(degrees / 2, 0.5, degrees / (degrees + t * t));
  }

  /** The seeds of one score as shares per image, the images all seeds judged, and each seed's accuracy. */
  function verdicts(scores) {
    const n = scores[0].of || scores[0].n, share = new Float64Array(n), judged = new Uint8Array(n).fill(1);
    const rows = scores.map((s) => unpack(s.bits, n));
    scores.forEach((s) => { if (s.judged) unpack(s.judged, n).forEach((j, i) => { judged[i] &= j; }); });
    rows.forEach((row) => row.forEach((bit, i) => { share[i] += bit / rows.length; }));
    const count = sum(Array.from(judged));
    const accuracies = rows.map((row) => 100 * sum(Array.from(row, (bit, i) => bit & judged[i])) / count);
    return { n, share, judged, accuracies };
  }

  /** Compare two scores on the images that both judged. */
  function pair(a, b) {
    let more = 0, less = 0, both = 0;
    for (let i = 0; i < a.n; i++) {
      if (!(a.judged[i] && b.judged[i])) continue;
      both++;
      const difference = a.share[i] - b.share[i];
      if (difference > 1e-9) more++; else if (difference < -1e-9) less++;
    }
    const images = signTest(more, less), seeds = welch(a.accuracies, b.accuracies);
    const apart = images < 0.05 && (seeds === null || seeds < 0.05);
    return { more, less, both, images, seeds, apart, better: apart ? (more > less ? "a" : "b") : null };
  }

  function wilson(correct, n) {
    const z = 1.959964, p = correct / n, zz = z * z;
    const middle = p + zz / (2 * n), half = z * Math.sqrt(Math.max(0, p * (1 - p)) / n + zz / (4 * n * n));
    return [Math.max(0, (middle - half) / (1 + zz / n)), Math.min(1, (middle + half) / (1 + zz / n))];
  }

  Object.assign(B, { bytes, unpack, mean, variance, signTest, welch, verdicts, pair, wilson });
})(window.Board);
