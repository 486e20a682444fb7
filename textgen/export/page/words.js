// The linear model of the words of a text, which a classifier adds: part of textgen.js, after runtime.js.
//
// Words, pairs of adjacent words and beginnings of words are known by their checksums, as in textgen's ngrams.py.

const UNSPACED = "\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u3040-\\u30ff\\u3400-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{3ffff}";
const BLANK = "\\t-\\r\\x1c- \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const WORD_PARTS = new RegExp(`[${UNSPACED}]|(?:(?![${UNSPACED}])[\\p{L}\\p{N}_]){1,40}|[^\\p{L}\\p{N}_${BLANK}]`, "gu");
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let sum = byte;
  for (let bit = 0; bit < 8; bit += 1) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  return sum >>> 0;
});
const WORD_BYTES = new TextEncoder();

function checksum(text) {
  let sum = 0xffffffff;
  for (const byte of WORD_BYTES.encode(text)) sum = (sum >>> 8) ^ CRC_TABLE[(sum ^ byte) & 255];
  return (sum ^ 0xffffffff) >>> 0;
}

class LinearModel {
  constructor(stored, labels, buffer) {
    const { offset, features } = stored;
    Object.assign(this, stored, { labels });
    this.known = new Uint32Array(buffer, offset, features);
    this.rates = new Float32Array(buffer, offset + 4 * features, features * labels);
  }

  keys(text) {
    // The features of a text, each once; 0 is one that every text has.
    const folded = [...text].map((letter) => this.folded[letter] ?? letter.toLowerCase()).join("");
    const found = new Set([0]);
    let before = null;
    for (const word of folded.match(WORD_PARTS) || []) {
      const key = checksum(word), letters = [...word];
      found.add(key);
      for (const n of this.beginnings) if (letters.length > n) found.add(checksum(`^${letters.slice(0, n).join("")}`));
      if (before !== null) found.add(Number(((BigInt(before) * 0x9e3779b1n + BigInt(key) * 0x85ebca6bn) >> 16n) & 0xffffffffn));
      before = key;
    }
    return found;
  }

  scores(text) {
    const sums = new Float64Array(this.labels);
    for (const key of this.keys(text)) {
      let low = 0, high = this.known.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.known[middle] < key) low = middle + 1;
        else high = middle;
      }
      if (this.known[low] === key) sums.forEach((sum, k) => { sums[k] = sum + this.rates[low * this.labels + k]; });
    }
    return sums;
  }

  blended(text, logProbabilities) {
    const { recurrent, linear } = this.weights, scores = this.scores(text);
    return logProbabilities.map((value, k) => recurrent * value + linear * scores[k]);
  }
}
