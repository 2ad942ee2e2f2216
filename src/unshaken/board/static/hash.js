// Digests of results: SHA-256, BLAKE2b, and JSON that is read so that it can be written as Python writes it.
"use strict";
(function (B) {
  const MASK = (1n << 64n) - 1n;
  const IV = [0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
    0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n];
  const SIGMA = ["0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
    "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0"]
    .map((line) => Array.from(line, (c) => parseInt(c, 16)));

  /** Return a text's BLAKE2b digest (RFC 7693) of `size` bytes, in hexadecimal digits. */
  function blake2b(text, size) {
    const data = new TextEncoder().encode(text), h = IV.slice();
    h[0] ^= 0x01010000n ^ BigInt(size);
    const blocks = Math.max(1, Math.ceil(data.length / 128));
    for (let block = 0; block < blocks; block++) {
      const padded = new Uint8Array(128);
      padded.set(data.subarray(block * 128, block * 128 + 128));
      const view = new DataView(padded.buffer), m = [];
      for (let i = 0; i < 16; i++) m.push(view.getBigUint64(8 * i, true));
      const last = block === blocks - 1, v = [...h, ...IV];
      v[12] ^= BigInt(last ? data.length : (block + 1) * 128);
      if (last) v[14] ^= MASK;
      const turn = (x, by) => ((x >> by) | (x << (64n - by))) & MASK;
      const mix = (a, b, c, d, x, y) => {
        v[a] = (v[a] + v[b] + x) & MASK; v[d] = turn(v[d] ^ v[a], 32n);
        v[c] = (v[c] + v[d]) & MASK; v[b] = turn(v[b] ^ v[c], 24n);
        v[a] = (v[a] + v[b] + y) & MASK; v[d] = turn(v[d] ^ v[a], 16n);
        v[c] = (v[c] + v[d]) & MASK; v[b] = turn(v[b] ^ v[c], 63n);
      };
      for (let round = 0; round < 12; round++) {
        const s = SIGMA[round % 10];
        for (let i = 0; i < 4; i++) mix(i, 4 + i, 8 + i, 12 + i, m[s[2 * i]], m[s[2 * i + 1]]);
        for (let i = 0; i < 4; i++) {
          mix(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[s[8 + 2 * i]], m[s[9 + 2 * i]]);
        }
      }
      for (let i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
    }
    let hex = "";
    for (let i = 0; i < size; i++) hex += Number((h[i >> 3] >> BigInt(8 * (i % 8))) & 0xffn).toString(16).padStart(2, "0");
    return hex;
  }

  const PRIMES = [];
  for (let n = 2; PRIMES.length < 64; n++) if (PRIMES.every((p) => n % p)) PRIMES.push(n);
  const fraction = (x) => Math.floor((x - Math.floor(x)) * 2 ** 32);
  const K = PRIMES.map((p) => fraction(Math.cbrt(p)));
  const H = PRIMES.slice(0, 8).map((p) => fraction(Math.sqrt(p)));

  /** Hexadecimal digits of a text's SHA-256 digest (FIPS 180-4). */
  function sha256(text) {
    const data = new TextEncoder().encode(text), padded = new Uint8Array((((data.length + 8) >> 6) + 1) << 6);
    padded.set(data);
    padded[data.length] = 0x80;
    const view = new DataView(padded.buffer), h = H.slice(), w = new Int32Array(64);
    view.setUint32(padded.length - 8, Math.floor(data.length / 2 ** 29));
    view.setUint32(padded.length - 4, (data.length << 3) >>> 0);
    const turn = (x, by) => (x >>> by) | (x << (32 - by));
    for (let at = 0; at < padded.length; at += 64) {
      for (let i = 0; i < 64; i++) {
        if (i < 16) { w[i] = view.getInt32(at + 4 * i); continue; }
        const a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ (a >>> 3)) + w[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ (b >>> 10));
      }
      let [a, b, c, d, e, f, g, last] = h;
      for (let i = 0; i < 64; i++) {
        const one = (last + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
        const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
        [last, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
      }
      [a, b, c, d, e, f, g, last].forEach((value, i) => { h[i] = (h[i] + value) | 0; });
    }
    return h.map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
  }

  /** A JSON number as it stands in a file: 5.0 and 5 are different ones to Python. */
  class Num {
    constructor(raw) { this.raw = raw; }
    valueOf() { return Number(this.raw); }
    /** As Python's repr writes it. */
    toString() {
      if (!/[.eE]/.test(this.raw)) return BigInt(this.raw).toString();
      const value = Number(this.raw);
      if (!Number.isFinite(value)) return String(value);
      const [digits, power] = Math.abs(value).toExponential().split("e"), exponent = Number(power);
      if (value !== 0 && (exponent < -4 || exponent >= 16)) {
        const sign = exponent < 0 ? "-" : "+";
        return `${value < 0 ? "-" : ""}${digits}e${sign}${String(Math.abs(exponent)).padStart(2, "0")}`;
      }
      const plain = Object.is(value, -0) ? "-0" : exponent < -6 ? value.toFixed(20) : String(value);
      return plain.includes(".") ? plain : `${plain}.0`;
    }
  }

  /** JSON text as nested Maps, arrays, strings, Nums, booleans and null. Throws an Error in words. */
  function parse(text) {
    let at = 0;
    const fail = (what) => { throw new Error(`it cannot be read as JSON (${what} at character ${at})`); };
    const skip = () => { while (at < text.length && " \n\r\t".includes(text[at])) at++; };
    function string() {
      const match = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
      match.lastIndex = at;
      const found = match.exec(text);
      if (!found) fail("a broken text");
      at = match.lastIndex;
      return JSON.parse(found[0]);
    }
    function value() {
      skip();
      const c = text[at];
      if (c === "{") {
        const found = new Map();
        at++; skip();
        if (text[at] === "}") { at++; return found; }
        for (;;) {
          skip();
          const key = string();
          if (found.has(key)) fail(`${JSON.stringify(key)} stands there twice`);
          skip();
          if (text[at++] !== ":") fail("a colon is missing");
          found.set(key, value());
          skip();
          const next = text[at++];
          if (next === "}") return found;
          if (next !== ",") fail("a comma is missing");
        }
      }
      if (c === "[") {
        const found = [];
        at++; skip();
        if (text[at] === "]") { at++; return found; }
        for (;;) {
          found.push(value());
          skip();
          const next = text[at++];
          if (next === "]") return found;
          if (next !== ",") fail("a comma is missing");
        }
      }
      if (c === '"') return string();
      for (const [word, meant] of [["true", true], ["false", false], ["null", null]]) {
        if (text.startsWith(word, at)) { at += word.length; return meant; }
      }
      const match = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
      match.lastIndex = at;
      const found = match.exec(text);
      if (!found) fail("an unknown sign");
      at = match.lastIndex;
      return new Num(found[0]);
    }
    const found = value();
    skip();
    if (at < text.length) fail("something follows");
    return found;
  }

  /** The same as ordinary objects and numbers. */
  function plain(node) {
    if (node instanceof Map) return Object.fromEntries(Array.from(node, ([key, value]) => [key, plain(value)]));
    if (Array.isArray(node)) return node.map(plain);
    return node instanceof Num ? Number(node.raw) : node;
  }

  const ascii = (text) => JSON.stringify(text).replace(/[\u007f-\uffff]/g,
    (c) => (c === "\u007f" ? c : "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0")));
  const byCodePoint = (a, b) => {
    const [x, y] = [Array.from(a), Array.from(b)];
    for (let i = 0; i < Math.min(x.length, y.length); i++) {
      if (x[i] !== y[i]) return x[i].codePointAt(0) - y[i].codePointAt(0);
    }
    return x.length - y.length;
  };

  /** Sorted keys and no spaces: unshaken/base/canon.py. */
  function canonical(node) {
    if (node instanceof Map) {
      return `{${Array.from(node.keys()).sort(byCodePoint).map((k) => `${ascii(k)}:${canonical(node.get(k))}`).join(",")}}`;
    }
    if (Array.isArray(node)) return `[${node.map(canonical).join(",")}]`;
    return typeof node === "string" ? ascii(node) : String(node);
  }

  /** As Python prints a dictionary. */
  function printed(node) {
    if (node instanceof Map) return `{${Array.from(node, ([k, v]) => `${printed(k)}: ${printed(v)}`).join(", ")}}`;
    if (Array.isArray(node)) return `[${node.map(printed).join(", ")}]`;
    if (typeof node === "string") {
      const quote = node.includes("'") && !node.includes('"') ? '"' : "'";
      const inner = node.replace(/\\/g, "\\\\").replace(/\n/g, "\\n").replace(/\t/g, "\\t").replace(/\r/g, "\\r");
      return quote + (quote === "'" ? inner.replace(/'/g, "\\'") : inner) + quote;
    }
    return node === null ? "None" : node === true ? "True" : node === false ? "False" : String(node);
  }

  Object.assign(B, { sha256, blake2b, parse, plain, canonical, printed });
})(window.Board);
