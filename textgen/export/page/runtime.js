// Runs a model that `textgen export` wrote, in a browser, a worker, or node: no dependency, no eval, no network.
//
//     import { load } from "./textgen.js";
//     const model = await load("model.json");                 // beside it: model.bin
//     model.generate("Once", { seed: 1, max_new_tokens: 40 });
//     for (const piece of model.stream("Once")) show(piece);
//
// A model's step is data: a list of array operations (`step.json`, written by textgen's tracer). It is compiled into a
// list of closures over typed arrays, for a batch of one. The operations, the order of the filters and the noise are
// those of textgen's Python runtime, so that a seed gives the same text but for near-ties that rounding decides.

const ARRAYS = { float32: Float32Array, int64: Float64Array, bool: Uint8Array };
const MOST_REMEMBERED = 1 << 22; // numbers that are kept of what depends on the token alone
const WIDENED = { room: 1 << 24 }; // weights that are kept in 64 bits, too: products of such numbers are twice as fast
const OUT = -Infinity;

export class ModelError extends Error {}

// --- arrays: { data, shape, dtype }, row-major ---

const count = (shape) => shape.reduce((product, size) => product * size, 1);
const isSame = (a, b) => a.length === b.length && a.every((size, k) => size === b[k]);

function sizes(stored) {
  // A stored shape for a batch of one: "B" is 1, "4B" is 4.
  return stored.map((size) => (typeof size === "number" ? size : Number(size.slice(0, -1) || 1)));
}

function array(dtype, shape, data) {
  if (!(dtype in ARRAYS)) throw new ModelError(`there is no type ${dtype}.`);
  return { dtype, shape, data: data || new ARRAYS[dtype](count(shape)) };
}

function stridesOf(shape) {
  const strides = new Array(shape.length);
  for (let k = shape.length - 1, step = 1; k >= 0; step *= shape[k], k -= 1) strides[k] = step;
  return strides;
}

function placesBy(shape, strides, begin = 0) {
  // For each element of an array of this shape, its place in another array, by that one's strides.
  const places = new Int32Array(count(shape));
  const at = new Array(shape.length).fill(0);
  for (let i = 0, place = begin; i < places.length; i += 1) {
    places[i] = place;
    for (let k = shape.length - 1; k >= 0; k -= 1) {
      at[k] += 1;
      place += strides[k];
      if (at[k] < shape[k]) break;
      place -= shape[k] * strides[k];
      at[k] = 0;
    }
  }
  return places;
}

function broadcast(from, to) {
  // For each element of an array of shape `to`, its place in one of shape `from`; null where they are the same.
  if (isSame(from, to)) return null;
  const own = stridesOf(from), more = to.length - from.length;
  return placesBy(to, to.map((_, k) => (k < more || from[k - more] === 1 ? 0 : own[k - more])));
}

function gather(x, y, places) {
  const a = x.data, o = y.data;
  return () => {
    for (let i = 0; i < o.length; i += 1) o[i] = a[places[i]];
  };
}

function around(shape, axis) {
  // How many blocks there are before an axis, its size, and how many elements each step of it holds.
  return [count(shape.slice(0, axis)), shape[axis], count(shape.slice(axis + 1))];
}

// --- operations: (inputs, output, options) => a function that computes the output; or nothing, if it is a view ---

function pointwise(f) {
  return (inputs, y) => {
    const places = inputs.map((x) => broadcast(x.shape, y.shape));
    const [a, b, c] = inputs.map((x) => x.data), [p, q, r] = places, o = y.data, n = o.length;
    if (inputs.length === 1) return () => { for (let i = 0; i < n; i += 1) o[i] = f(a[i]); };
    if (inputs.length === 2 && !p && !q) return () => { for (let i = 0; i < n; i += 1) o[i] = f(a[i], b[i]); };
    if (inputs.length === 2) {
      return () => { for (let i = 0; i < n; i += 1) o[i] = f(a[p ? p[i] : i], b[q ? q[i] : i]); };
    }
    return () => { for (let i = 0; i < n; i += 1) o[i] = f(a[p ? p[i] : i], b[q ? q[i] : i], c[r ? r[i] : i]); };
  };
}

const remainder = (a, b) => a - Math.floor(a / b) * b; // with the sign of the divisor

function erf(x) {
  // Abramowitz and Stegun 1964, 7.1.26
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - tail * Math.exp(-x * x));
}

function multiplyRows(x, weight, y, rows, K, N) {
  // y (rows, N) = x (rows, K) times the transpose of weight (N, K); eight rows of the weight share each load of x, and
  // eight sums grow side by side. All numbers are computed in 64 bits, so arrays of such numbers need no conversion.
  const N8 = N - (N % 8);
  for (let row = 0; row < rows; row += 1) {
    const from = row * K, to = row * N;
    for (let n = 0; n < N8; n += 8) {
      const p = n * K, q = p + K, r = q + K, s = r + K, t = s + K, u = t + K, v = u + K, w = v + K;
      let a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
      for (let k = 0; k < K; k += 1) {
        const value = x[from + k];
        a += value * weight[p + k];
        b += value * weight[q + k];
        c += value * weight[r + k];
        d += value * weight[s + k];
        e += value * weight[t + k];
        f += value * weight[u + k];
        g += value * weight[v + k];
        h += value * weight[w + k];
      }
      y.set([a, b, c, d, e, f, g, h], to + n);
    }
    for (let n = N8; n < N; n += 1) {
      let a = 0;
      for (let k = 0; k < K; k += 1) a += x[from + k] * weight[n * K + k];
      y[to + n] = a;
    }
  }
}

function linear([x, weight, bias], y) {
  const [N, K] = weight.shape, rows = count(x.shape) / K, o = y.data;
  const fits = weight.isFixed && weight.data.length <= WIDENED.room, wide = new Float64Array(x.data.length);
  if (fits) WIDENED.room -= weight.data.length;
  const matrix = fits ? Float64Array.from(weight.data) : weight.data;
  return () => {
    wide.set(x.data);
    multiplyRows(wide, matrix, o, rows, K, N);
    if (bias) for (let i = 0; i < o.length; i += 1) o[i] += bias.data[i % N];
  };
}

function matmul([a, b], y) {
  const [M, N] = y.shape.slice(-2), K = a.shape.at(-1), batch = y.shape.slice(0, -2);
  const blocks = [a, b].map((x) => {
    const places = broadcast(x.shape.slice(0, -2), batch);
    return places || Int32Array.from({ length: count(batch) }, (_, k) => k);
  });
  return () => {
    for (let k = 0; k < count(batch); k += 1) {
      const p = blocks[0][k] * M * K, q = blocks[1][k] * K * N;
      for (let i = 0; i < M; i += 1) {
        for (let j = 0; j < N; j += 1) {
          let sum = 0;
          for (let l = 0; l < K; l += 1) sum += a.data[p + i * K + l] * b.data[q + l * N + j];
          y.data[(k * M + i) * N + j] = sum;
        }
      }
    }
  };
}

function embedding([table, ids], y) {
  const [rows, width] = table.shape;
  return () => ids.data.forEach((id, k) => {
    const row = Math.max(0, Math.min(rows - 1, id));
    y.data.set(table.data.subarray(row * width, (row + 1) * width), k * width);
  });
}

function layerNorm([x, weight, bias], y, { axes, eps }) {
  const n = count(x.shape.slice(x.shape.length - axes)), a = x.data, o = y.data;
  return () => {
    for (let from = 0; from < a.length; from += n) {
      let mean = 0, variance = 0;
      for (let k = 0; k < n; k += 1) mean += a[from + k] / n;
      for (let k = 0; k < n; k += 1) variance += (a[from + k] - mean) ** 2 / n;
      const scale = 1 / Math.sqrt(variance + eps);
      for (let k = 0; k < n; k += 1) {
        o[from + k] = (a[from + k] - mean) * scale * (weight ? weight.data[k] : 1) + (bias ? bias.data[k] : 0);
      }
    }
  };
}

function along(each) {
  // An operation on the stretches of an axis: each(x, y, begin, n, step).
  return ([x], y, { axis }) => {
    const [outer, n, inner] = around(x.shape, axis);
    return () => {
      for (let k = 0; k < outer; k += 1) {
        for (let j = 0; j < inner; j += 1) each(x.data, y.data, k * n * inner + j, n, inner);
      }
    };
  };
}

function logSum(x, begin, n, step) {
  let highest = -Infinity, sum = 0;
  for (let k = 0; k < n; k += 1) highest = Math.max(highest, x[begin + k * step]);
  for (let k = 0; k < n; k += 1) sum += Math.exp(x[begin + k * step] - highest);
  return highest + Math.log(sum);
}

function cumulate(x, y, begin, n, step) {
  for (let k = 0, sum = 0; k < n; k += 1) y[begin + k * step] = sum += x[begin + k * step];
}

function softmax(f) {
  return (x, y, begin, n, step) => {
    const total = logSum(x, begin, n, step);
    for (let k = 0; k < n; k += 1) y[begin + k * step] = f(x[begin + k * step] - total);
  };
}

function reduction(begin, f, finish = (total) => total) {
  return ([x], y, { axes }) => {
    const kept = x.shape.map((size, k) => (axes.includes(k) ? 1 : size));
    const places = broadcast(kept, x.shape), n = x.data.length / y.data.length, totals = new Float64Array(y.data.length);
    return () => {
      totals.fill(begin);
      for (let i = 0; i < x.data.length; i += 1) {
        const place = places ? places[i] : i;
        totals[place] = f(totals[place], x.data[i]);
      }
      for (let i = 0; i < totals.length; i += 1) y.data[i] = finish(totals[i], n);
    };
  };
}

function slice([x], y, { axis, start, stop, step }) {
  const [outer, n, inner] = around(x.shape, axis);
  if (outer === 1 && step === 1) {
    y.data = x.data.subarray(start * inner, stop * inner);
    return null;
  }
  const strides = stridesOf(x.shape);
  return gather(x, y, placesBy(y.shape, strides.map((own, k) => (k === axis ? own * step : own)), start * strides[axis]));
}

function cat(parts, y, { axis }) {
  const [outer, n, inner] = around(y.shape, axis);
  return () => {
    let at = 0;
    for (const part of parts) {
      const size = part.shape[axis] * inner;
      for (let k = 0; k < outer; k += 1) y.data.set(part.data.subarray(k * size, (k + 1) * size), k * n * inner + at);
      at += size;
    }
  };
}

function take([x, places], y, { axis }) {
  const [outer, n, inner] = around(x.shape, axis), size = places.data.length;
  return () => {
    for (let k = 0; k < outer; k += 1) {
      for (let j = 0; j < size; j += 1) {
        const from = (k * n + Math.max(0, Math.min(n - 1, places.data[j]))) * inner;
        y.data.set(x.data.subarray(from, from + inner), (k * size + j) * inner);
      }
    }
  };
}

function permute([x], y, { axes }) {
  const strides = stridesOf(x.shape);
  return gather(x, y, placesBy(y.shape, axes.map((axis) => strides[axis])));
}

function reshape([x], y) {
  y.data = x.data;
  return null;
}

function expand([x], y) {
  const places = broadcast(x.shape, y.shape);
  return places ? gather(x, y, places) : reshape([x], y);
}

function full(_, y, { value }) {
  return () => y.data.fill(value);
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

const OPERATIONS = {
  tanh: pointwise(Math.tanh), exp: pointwise(Math.exp), expm1: pointwise(Math.expm1), log: pointwise(Math.log),
  log1p: pointwise(Math.log1p), sqrt: pointwise(Math.sqrt), reciprocal: pointwise((x) => 1 / x),
  sin: pointwise(Math.sin), cos: pointwise(Math.cos), floor: pointwise(Math.floor), ceil: pointwise(Math.ceil),
  negative: pointwise((x) => -x), absolute: pointwise(Math.abs), sign: pointwise(Math.sign),
  add: pointwise((a, b) => a + b), subtract: pointwise((a, b) => a - b), multiply: pointwise((a, b) => a * b),
  divide: pointwise((a, b) => a / b), power: pointwise((a, b) => a ** b), remainder: pointwise(remainder),
  floor_divide: pointwise((a, b) => Math.floor(a / b)),
  maximum: pointwise((a, b) => Math.max(a, b)), minimum: pointwise((a, b) => Math.min(a, b)),
  equal: pointwise((a, b) => a === b), not_equal: pointwise((a, b) => a !== b), less: pointwise((a, b) => a < b),
  less_equal: pointwise((a, b) => a <= b), greater: pointwise((a, b) => a > b),
  greater_equal: pointwise((a, b) => a >= b),
  logical_and: pointwise((a, b) => a && b), logical_or: pointwise((a, b) => a || b),
  logical_xor: pointwise((a, b) => a !== b), logical_not: pointwise((a) => !a),
  relu: pointwise((x) => Math.max(x, 0)), sigmoid: pointwise(sigmoid),
  log_sigmoid: pointwise((x) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)))), erf: pointwise(erf),
  where: pointwise((chosen, a, b) => (chosen ? a : b)), lerp: pointwise((a, b, weight) => a + (b - a) * weight),
  cast: pointwise((x) => x), linear, matmul, embedding, layer_norm: layerNorm,
  softmax: along(softmax(Math.exp)), log_softmax: along(softmax((x) => x)), cumsum: along(cumulate),
  sum: reduction(0, (total, x) => total + x), mean: reduction(0, (total, x) => total + x, (total, n) => total / n),
  amax: reduction(-Infinity, Math.max), amin: reduction(Infinity, Math.min),
  slice, cat, take, permute, reshape, expand, full,
};

// --- programs ---

function numberOf(stored) {
  return typeof stored === "string" ? (stored === "inf" ? Infinity : -Infinity) : stored;
}

class Program {
  // The closures of a program. What depends on nothing that is read is computed at once; what depends on the input
  // alone, and not on the state, is in `byInput`; all else in `byState`.
  constructor(stored, weights, input, state) {
    const values = new Map([...weights, ...[...input, ...state]]);
    const depends = new Map([...input.map(([name]) => [name, 1]), ...state.map(([name]) => [name, 2])]);
    stored.constants.forEach(({ is: [dtype, shape], values: numbers }, k) => {
      const constant = array(dtype, sizes(shape), ARRAYS[dtype].from(numbers, numberOf));
      values.set(`constant.${k}`, Object.assign(constant, { isFixed: true }));
    });
    this.byInput = [];
    this.byState = [];
    const made = new Map(), read = new Set(stored.outputs);
    stored.nodes.forEach(({ op, inputs, is: [dtype, shape], options = {} }, k) => {
      if (!Object.hasOwn(OPERATIONS, op)) throw new ModelError(`there is no operation ${op}.`);
      const given = inputs.map((each) => values.get(each) || array("float32", [], Float64Array.of(numberOf(each))));
      const output = array(dtype, sizes(shape)), after = Math.max(0, ...inputs.map((each) => depends.get(each) || 0));
      const known = Object.fromEntries(Object.entries(options).map(([name, each]) => [name, Array.isArray(each) ? each : numberOf(each)]));
      const run = OPERATIONS[op](given, output, known);
      values.set(`node.${k}`, output);
      depends.set(`node.${k}`, after);
      output.isFixed = after === 0;
      if (after === 0) run?.();
      else if (run) (after === 1 ? this.byInput : this.byState).push(run);
      if (after === 1) made.set(`node.${k}`, output);
      if (after === 2) inputs.forEach((each) => read.add(each));
    });
    this.border = [...made].filter(([name]) => read.has(name)).map(([, value]) => value);
    this.outputs = stored.outputs.map((name) => values.get(name));
  }
}

class Stepper {
  // One time step of a model: what it reads (an id, or numbers) and a state to outputs and the next state. A state is a
  // list of typed arrays that are never changed.
  constructor(graph, weights) {
    const state = graph.state.map(([dtype, shape], k) => [`state.${k}`, array(dtype, sizes(shape))]);
    const [dtype, shape] = graph.input || ["int64", ["B"]];
    this.input = array(dtype, sizes(shape));
    const named = [...weights].map(([name, value]) => [`weight.${name}`, Object.assign(value, { isFixed: true })]);
    this.initial = new Program(graph.initial, named, [], []).outputs.map(({ data }) => data.slice());
    this.program = new Program(graph.step, named, [[graph.input ? "inputs" : "ids", this.input]], state);
    this.state = state.map(([, value]) => value.data);
    this.remembered = graph.input ? null : new Map();
    this.room = MOST_REMEMBERED;
  }

  read(id) {
    // Compute what depends on the input alone, or look it up.
    const known = this.remembered?.get(id);
    if (known) {
      this.program.border.forEach(({ data }, k) => data.set(known[k]));
      return;
    }
    for (const run of this.program.byInput) run();
    this.room -= this.program.border.reduce((sum, { data }) => sum + data.length, 0);
    if (this.remembered && this.room > 0) this.remembered.set(id, this.program.border.map(({ data }) => data.slice()));
  }

  step(given, state) {
    this.input.data.set(typeof given === "number" ? [given] : given);
    state.forEach((part, k) => this.state[k].set(part));
    this.read(given);
    for (const run of this.program.byState) run();
    const [outputs, ...after] = this.program.outputs;
    return [outputs.data, after.map(({ data }) => data.slice())];
  }
}

function weightsOf(stored, buffer) {
  // The weights by name as float32: float16 and int8 (a code times the scale of its row) are converted.
  return stored.map(({ name, dtype, shape, offset, scales }) => {
    const n = count(shape);
    if (dtype === "float32") return [name, array(dtype, shape, new Float32Array(buffer, offset, n))];
    if (dtype === "int64") {
      const numbers = new BigInt64Array(buffer, offset, n);
      return [name, array(dtype, shape, Float64Array.from(numbers, Number))];
    }
    if (dtype === "bool") return [name, array(dtype, shape, new Uint8Array(buffer, offset, n))];
    const data = new Float32Array(n);
    if (dtype === "float16") {
      new Uint16Array(buffer, offset, n).forEach((bits, k) => (data[k] = fromHalf(bits)));
    } else if (dtype === "int8") {
      const width = shape.at(-1), codes = new Int8Array(buffer, offset, n), scale = new Float32Array(buffer, scales, n / width);
      for (let k = 0; k < n; k += 1) data[k] = codes[k] * scale[Math.floor(k / width)];
    } else {
      throw new ModelError(`${name} has the unknown type ${dtype}.`);
    }
    return [name, array("float32", shape, data)];
  });
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return exponent === 31 ? (fraction ? NaN : sign * Infinity) : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// --- text and tokens ---

const UTF8 = new TextEncoder();
const bytesOf = (text) => Array.from(UTF8.encode(text), (byte) => String.fromCharCode(byte)).join("");
const raw = (bytes) => Uint8Array.from(bytes, (byte) => byte.charCodeAt(0));
const decoder = () => new TextDecoder("utf-8", { ignoreBOM: true });
const textOf = (bytes) => decoder().decode(raw(bytes)); // of bytes that are characters of a string

const WORD = /[^ \t\r\n]+|\r\n?|\n/g;
const SPELLED = /^[\n\u2581\u2585]/;
const WORDS = / {0,2000}[^ \n\u2581\u2585]{1,2000}| {1,2000}|[\n\u2581\u2585]{1,2000}/gu;
const STRETCHES = /[^\n\u2581\u2585]{1,2000}[^ \n\u2581\u2585]{0,2000}|[\n\u2581\u2585]{1,2000}/gu;

class Tokenizer {
  // Text to ids and back. `tokens` are the bytes of each token, each byte as a character.
  constructor({ kind, tokens, boundary, escape, scores = [] }) {
    Object.assign(this, { kind, tokens, boundary, escape, scores });
    this.ids = new Map(tokens.map((token, id) => [token, id]));
    this.first = tokens.length - scores.length; // the pieces that were learned are all after the tokens of single bytes
    this.learned = new Map(tokens.slice(this.first).map((token, k) => [textOf(token), this.first + k]));
    this.longest = [...this.learned.keys()].reduce((most, piece) => Math.max(most, [...piece].length), 0);
    this.stretches = [...this.learned.keys()].some((piece) => /[^ ] /.test(piece)) ? STRETCHES : WORDS;
  }

  encode(text) {
    if (!text.isWellFormed?.() && /[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/.test(text)) {
      throw new ModelError("the text holds a lone surrogate, which is not a character.");
    }
    if (this.kind === "byte") return [...UTF8.encode(text)];
    if (this.kind === "char") return Array.from(text, (each) => this.ids.get(bytesOf(each)) ?? this.escape);
    if (this.kind === "word") return (text.match(WORD) || []).map((each) => this.wordId(each));
    return (text.match(this.stretches) || []).flatMap((each) => this.pieces(each));
  }

  wordId(word) {
    const id = this.ids.get(bytesOf(word));
    return id === undefined || id === this.boundary ? (/^[\r\n]/.test(word) ? this.ids.get("\n") : this.escape) : id;
  }

  pieces(stretch) {
    // The tokens of a stretch without line ends: bpe or unigram, as sentencepiece finds them.
    if (SPELLED.test(stretch)) return this.spell(stretch);
    const found = this.kind === "bpe" ? merged(stretch, this) : likeliest(stretch, this);
    return found.flatMap((piece) => (this.learned.has(piece) ? [this.learned.get(piece)] : this.spell(piece)));
  }

  score(id) {
    return this.scores[id - this.first];
  }

  spell(text) {
    return [...UTF8.encode(text)].map((byte) => byte + 2);
  }

  joined(before, id) {
    // The bytes that a token adds after another one: words have a space between them.
    const token = this.tokens[id];
    if (this.kind !== "word") return token;
    const isWord = (each) => each !== undefined && each !== "" && !/^[\r\n]/.test(each);
    return (isWord(before) && isWord(token)) || (before === "\r" && token === "\n") ? ` ${token}` : token;
  }
}

function merged(stretch, tokenizer) {
  // Byte pair encoding: merge the neighbours whose piece has the highest score, the leftmost of equal ones, again and
  // again (Sennrich et al. 2016).
  const parts = [...stretch], { learned } = tokenizer;
  while (parts.length > 1) {
    let best = -1, highest = -Infinity;
    for (let k = 0; k + 1 < parts.length; k += 1) {
      const id = learned.get(parts[k] + parts[k + 1]);
      if (id !== undefined && tokenizer.score(id) > highest) [best, highest] = [k, tokenizer.score(id)];
    }
    if (best < 0) break;
    parts.splice(best, 2, parts[best] + parts[best + 1]);
  }
  return parts;
}

function likeliest(stretch, tokenizer) {
  // Unigram: the pieces with the highest sum of scores (Kudo 2018). A character without a piece costs 10 more than the
  // worst one.
  const characters = [...stretch], n = characters.length, { learned, longest } = tokenizer;
  const unknown = Math.fround(tokenizer.scores.reduce((low, each) => Math.min(low, each), 0) - 10);
  const best = new Float32Array(n + 1).fill(-Infinity), from = new Int32Array(n + 1);
  best[0] = 0;
  for (let start = 0; start < n; start += 1) {
    let isKnown = false;
    for (let end = start + 1, piece = ""; end <= Math.min(n, start + longest); end += 1) {
      piece += characters[end - 1];
      const id = learned.get(piece);
      if (id === undefined) continue;
      isKnown ||= end === start + 1;
      const score = Math.fround(best[start] + tokenizer.score(id));
      if (score > best[end]) [best[end], from[end]] = [score, start];
    }
    const score = Math.fround(best[start] + unknown);
    if (!isKnown && score > best[start + 1]) [best[start + 1], from[start + 1]] = [score, start];
  }
  const found = [];
  for (let end = n; end > 0; end = from[end]) found.unshift(characters.slice(from[end], end).join(""));
  return found;
}

// --- noise: numpy's Philox, seeded as numpy's SeedSequence does (Salmon et al. 2011; O'Neill 2015) ---

function high32(a, b) {
  // The upper half of the product of two 32-bit numbers.
  const a0 = a & 0xffff, a1 = a >>> 16, b0 = b & 0xffff, b1 = b >>> 16;
  const low = a0 * b0, middle = a1 * b0 + (low >>> 16), more = a0 * b1 + (middle % 65536);
  return (a1 * b1 + Math.floor(middle / 65536) + Math.floor(more / 65536)) >>> 0;
}

function multiply64([ah, al], [bh, bl]) {
  // The upper and the lower half of the product of two 64-bit numbers, each [upper, lower] 32 bits.
  const p0 = Math.imul(al, bl) >>> 0, p1 = high32(al, bl);
  const q0 = Math.imul(al, bh) >>> 0, q1 = high32(al, bh);
  const r0 = Math.imul(ah, bl) >>> 0, r1 = high32(ah, bl);
  const s0 = Math.imul(ah, bh) >>> 0, s1 = high32(ah, bh);
  const one = p1 + q0 + r0, two = q1 + r1 + s0 + Math.floor(one / 2 ** 32), three = s1 + Math.floor(two / 2 ** 32);
  return [[three >>> 0, two >>> 0], [one >>> 0, p0]];
}

const M0 = [0xd2e7470e, 0xe14c6c93], M1 = [0xca5a8263, 0x95121157];
const W0 = [0x9e3779b9, 0x7f4a7c15], W1 = [0xbb67ae85, 0x84caa73b];

function add64([ah, al], [bh, bl]) {
  const low = al + bl;
  return [(ah + bh + Math.floor(low / 2 ** 32)) >>> 0, low >>> 0];
}

const xor64 = ([ah, al], [bh, bl], [ch, cl]) => [(ah ^ bh ^ ch) >>> 0, (al ^ bl ^ cl) >>> 0];

export class Noise {
  constructor(seed) {
    const words = seedWords(BigInt(seed), 4);
    this.key = [[words[1], words[0]], [words[3], words[2]]];
    this.counter = [0, 1, 2, 3].map(() => [0, 0]);
    this.words = []; // of 32 bits
  }

  block() {
    for (let k = 0; k < 4; k += 1) {
      this.counter[k] = add64(this.counter[k], [0, 1]);
      if (this.counter[k][0] || this.counter[k][1]) break;
    }
    let [c0, c1, c2, c3] = this.counter, [k0, k1] = this.key;
    for (let round = 0; round < 10; round += 1) {
      const [high0, low0] = multiply64(M0, c0), [high1, low1] = multiply64(M1, c2);
      [c0, c1, c2, c3] = [xor64(high1, c1, k0), low1, xor64(high0, c3, k1), low0];
      k0 = add64(k0, W0);
      k1 = add64(k1, W1);
    }
    for (const [high, low] of [c3, c2, c1, c0]) this.words.push(high, low); // taken from the end
  }

  uniform() {
    // From 0 to 1, with 24 bits.
    if (!this.words.length) this.block();
    return (this.words.pop() >>> 8) / 16777216;
  }
}

function seedWords(seed, number) {
  // numpy's SeedSequence(seed).generate_state: `number` words of 32 bits.
  const entropy = [], pool = [];
  for (let rest = seed; entropy.length === 0 || rest > 0n; rest >>= 32n) entropy.push(Number(rest & 0xffffffffn));
  let constant = 0x43b0d7e5;
  const hashed = (value) => {
    let mixed = (value ^ constant) >>> 0;
    constant = Math.imul(constant, 0x931e8875) >>> 0;
    mixed = Math.imul(mixed, constant) >>> 0;
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
  const mix = (x, y) => {
    const mixed = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) >>> 0;
    return (mixed ^ (mixed >>> 16)) >>> 0;
  };
  for (let k = 0; k < 4; k += 1) pool.push(hashed(entropy[k] ?? 0));
  for (let from = 0; from < 4; from += 1) {
    for (let to = 0; to < 4; to += 1) if (from !== to) pool[to] = mix(pool[to], hashed(pool[from]));
  }
  for (const word of entropy.slice(4)) for (let to = 0; to < 4; to += 1) pool[to] = mix(pool[to], hashed(word));
  constant = 0x8b51f9dd;
  return Array.from({ length: number }, (_, k) => {
    let value = (pool[k % 4] ^ constant) >>> 0;
    constant = Math.imul(constant, 0x58f38ded) >>> 0;
    value = Math.imul(value, constant) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  });
}

// --- from logits to a token ---

const NOISE_RANGE = 21, FEW_TOKENS = 512, TINY = Math.fround(1e-20);

function cut(logits, threshold) {
  for (let k = 0; k < logits.length; k += 1) if (!(logits[k] >= threshold)) logits[k] = OUT;
}

function filterTopK(logits, k) {
  if (k > 0 && k < logits.length) cut(logits, Float64Array.from(logits).sort()[logits.length - k]);
}

function filterTopP(logits, p) {
  if (p >= 1) return;
  const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a]), highest = logits[order[0]];
  const weights = order.map((id) => Math.exp(logits[id] - highest));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let kept = 1;
  for (let sum = weights[0]; kept < order.length && sum < p * total; kept += 1) sum += weights[kept];
  for (const id of order.slice(kept)) logits[id] = OUT;
}

function argmax(values) {
  let best = 0;
  for (let k = 1; k < values.length; k += 1) if (values[k] > values[best]) best = k;
  return best;
}

function draw(logits, temperature, noise) {
  // The likeliest token at temperature 0, else one by probability (Gumbel's maximum).
  const likeliest = argmax(logits), highest = logits[likeliest];
  let able = 0;
  for (const logit of logits) able += logit !== OUT;
  if (temperature === 0 || able === 1) return likeliest;
  let best = -1, most = -Infinity;
  for (let id = 0; id < logits.length; id += 1) {
    const uniform = Math.fround(noise.uniform()), scaled = (logits[id] - highest) / temperature;
    if (scaled === OUT || (logits.length > FEW_TOKENS && scaled < -NOISE_RANGE)) continue;
    const inner = Math.fround(-Math.log(Math.fround(uniform + TINY)));
    const value = scaled + Math.fround(-Math.log(Math.fround(inner + TINY)));
    if (value > most) [best, most] = [id, value];
  }
  return best;
}

// A text in UTF-8 is between two characters, or inside one and awaiting certain bytes (The Unicode Standard, table 3-7).
const EXPECTED = [
  [[0x00, 0x7f, 0], [0xc2, 0xdf, 1], [0xe0, 0xe0, 3], [0xe1, 0xec, 2], [0xed, 0xed, 4], [0xee, 0xef, 2], [0xf0, 0xf0, 6],
    [0xf1, 0xf3, 5], [0xf4, 0xf4, 7]],
  [[0x80, 0xbf, 0]], [[0x80, 0xbf, 1]], [[0xa0, 0xbf, 1]], [[0x80, 0x9f, 1]], [[0x80, 0xbf, 2]], [[0x90, 0xbf, 2]],
  [[0x80, 0x8f, 2]],
];

function placeAfter(place, bytes) {
  for (let k = 0; k < bytes.length && place >= 0; k += 1) {
    const byte = bytes.charCodeAt(k);
    place = EXPECTED[place].find(([low, high]) => low <= byte && byte <= high)?.[2] ?? -1;
  }
  return place;
}

class CharacterGuard {
  // For each place, the tokens that can follow so that the text stays valid; none are barred where all tokens are
  // whole characters.
  constructor(model) {
    const { tokens, boundary } = model.tokenizer, drawn = (id) => tokens[id] && !model.unsampled.has(id);
    const after = EXPECTED.map((_, place) => Int8Array.from({ length: model.size }, (_, id) => {
      if (id === boundary && !model.unsampled.has(id)) return place === 0 ? 0 : -1;
      return drawn(id) ? placeAfter(place, tokens[id]) : -1;
    }));
    const alive = EXPECTED.map((_, place) => place === 0);
    for (let round = 0; round < EXPECTED.length; round += 1) {
      after.forEach((row, place) => (alive[place] ||= row.some((next) => next >= 0 && alive[next])));
    }
    this.barred = after.map((row, place) => row.map((next) => alive[place] && !(next >= 0 && alive[next])));
    const whole = tokens.every((_, id) => !drawn(id) || after[0][id] === 0);
    this.needed = !model.rawBytes && !whole && tokens.some((_, id) => drawn(id) && after[0][id] >= 0 && alive[after[0][id]]);
  }

  mask(logits, place) {
    const barred = this.barred[place];
    for (let id = 0; id < logits.length; id += 1) if (barred[id]) logits[id] = OUT;
  }
}

// --- healing: the tokens of a prompt's last word are given back, and the text begins with their bytes ---

const MOST_GIVEN_BACK = 12;

class Healing {
  constructor(model) {
    this.model = model;
    this.known = new Map();
  }

  givenBack(ids) {
    const { tokens, kind } = this.model.tokenizer;
    if (kind !== "bpe" && kind !== "unigram") return [0, ""];
    let number = 0, bytes = "";
    while (number < Math.min(MOST_GIVEN_BACK, ids.length) && !/^[\t-\r\x1c-\x20]/.test(bytes)) {
      number += 1;
      bytes = tokens[ids[ids.length - number]] + bytes;
    }
    return bytes && placeAfter(0, bytes) === 0 && this.fitting(bytes).includes(1) ? [number, bytes] : [0, ""];
  }

  fitting(left) {
    // Which tokens can come next where the text still has to spell `left`.
    if (!this.known.has(left)) {
      const { tokenizer: { tokens }, unsampled, size } = this.model;
      const fits = new Uint8Array(size).fill(left ? 0 : 1);
      this.known.set(left, fits);
      tokens.forEach((token, id) => {
        if (!token || unsampled.has(id)) return;
        if (token.startsWith(left)) fits[id] = 1;
        else if (left.startsWith(token)) fits[id] = this.fitting(left.slice(token.length)).includes(1) ? 1 : 0;
      });
    }
    return this.known.get(left);
  }
}

// --- writing ---

const DEFAULTS = {
  max_new_tokens: 200, temperature: 0.8, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1, presence_penalty: 0,
  frequency_penalty: 0, repeat_last_n: 64, stop: [], lines: false, heal: true, ignore_eos: false, seed: null,
};
const LIMITS = {
  max_new_tokens: [-1, 1e9], temperature: [0, 100], top_k: [0, 1e7], top_p: [1e-9, 1], min_p: [0, 1],
  repetition_penalty: [1e-9, 100], presence_penalty: [-2, 2], frequency_penalty: [-2, 2], repeat_last_n: [0, 1e6],
};
const LINE_ENDS = ["\n", "\r"];

class StopScanner {
  // Passes text on up to the first complete stop string, and holds back what might be the beginning of one.
  constructor(stops) {
    this.stops = stops;
    this.held = "";
    this.stopped = false;
  }

  feed(piece) {
    const held = this.held + piece;
    const found = this.stops.map((stop) => [held.indexOf(stop), stop.length]).filter(([at]) => at >= 0);
    if (found.length) {
      found.sort(([a, n], [b, m]) => a + n - (b + m) || a - b);
      this.stopped = true;
      this.held = "";
      return held.slice(0, found[0][0]);
    }
    let keep = 0;
    for (const stop of this.stops) {
      for (let n = Math.min(held.length, stop.length - 1); n > keep; n -= 1) {
        if (held.endsWith(stop.slice(0, n))) keep = n;
      }
    }
    this.held = held.slice(held.length - keep);
    return held.slice(0, held.length - keep);
  }

  finish() {
    const held = this.held;
    this.held = "";
    return held;
  }
}

class Writer {
  // One text while it is written: which tokens may come, and the text that is certain.
  constructor(model, options, tail, left) {
    Object.assign(this, { model, options, left, tokens: 0, place: 0, before: undefined, ended: false });
    this.noise = new Noise(options.seed);
    this.scanner = new StopScanner(options.lines ? [...options.stop, ...LINE_ENDS] : options.stop);
    this.decoder = decoder();
    this.typed = textOf(left).length;
    this.blank = options.lines && (model.promptEnd.length > 0 || !tail.split(/\r\n|\r|\n/).at(-1).trim());
    this.empty = !(tail || left || model.promptEnd.length);
    this.recent = [];
    if (!model.promptEnd.length && tail && !/[ \t\r\n]$/.test(tail)) this.before = "a word";
  }

  see(ids) {
    const n = this.options.repeat_last_n;
    this.recent = n ? [...this.recent, ...ids].slice(-n) : [];
  }

  choose(outputs) {
    const { model, options } = this, logits = Float64Array.from(outputs), bar = (id) => (logits[id] = OUT);
    model.unsampled.forEach(bar);
    if (options.ignore_eos) bar(model.tokenizer.boundary);
    if (!Number.isFinite(logits[argmax(logits)])) {
      throw new ModelError("the model computes no probabilities: its numbers overflow or are NaN.");
    }
    if (this.left) model.healing.fitting(this.left).forEach((fits, id) => fits || bar(id));
    const unfit = this.blank ? model.blankEnds : this.empty ? [model.tokenizer.boundary] : [];
    if (logits.some((logit, id) => logit !== OUT && !unfit.includes(id))) unfit.forEach(bar);
    if (model.guard.needed) model.guard.mask(logits, this.place);
    this.penalize(logits);
    filterTopK(logits, options.top_k);
    filterTopP(logits, options.top_p);
    if (options.min_p > 0) cut(logits, logits[argmax(logits)] + Math.log(options.min_p));
    return draw(logits, options.temperature, this.noise);
  }

  penalize(logits) {
    const { repetition_penalty: penalty, presence_penalty: presence, frequency_penalty: frequency } = this.options;
    const uses = new Map();
    for (const id of this.recent) uses.set(id, (uses.get(id) || 0) + 1);
    for (const [id, times] of uses) {
      if (penalty !== 1) logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
      logits[id] -= presence + frequency * times;
    }
  }

  take(id) {
    // Add a token; returns the text that it makes certain.
    const { model, options } = this;
    if (id === model.tokenizer.boundary && !options.ignore_eos) return this.end();
    this.see([id]);
    const bytes = model.tokenizer.joined(this.before, id), more = !this.left || model.tokenizer.tokens[id].length > this.left.length;
    this.empty = false;
    this.left = this.left.slice(model.tokenizer.tokens[id].length);
    this.before = model.tokenizer.tokens[id];
    this.tokens += more ? 1 : 0;
    this.place = model.guard.needed ? placeAfter(this.place, bytes) : 0;
    const piece = this.scanner.feed(this.read(raw(bytes), { stream: true }));
    this.ended = this.scanner.stopped;
    return !this.ended && this.tokens === options.max_new_tokens ? piece + this.end() : piece;
  }

  read(bytes, how) {
    const piece = this.decoder.decode(bytes, how), known = Math.min(this.typed, piece.length);
    this.blank &&= !piece.trim();
    this.typed -= known;
    return piece.slice(known);
  }

  end() {
    this.ended = true;
    const rest = this.model.rawBytes ? this.scanner.feed(this.read(new Uint8Array(), {})) : "";
    return rest + this.scanner.finish();
  }
}

export class Model {
  // A model from its description (`model.json`) and its weights, an ArrayBuffer.
  constructor(description, buffer) {
    if (description.format !== "textgen export" || description.version !== 1) {
      throw new ModelError("this is no model that this version of textgen.js can read.");
    }
    const { generation = {} } = description;
    this.description = description;
    this.task = description.task;
    this.stepper = new Stepper(description.step, weightsOf(description.weights, buffer));
    this.tokenizer = description.tokenizer && new Tokenizer(description.tokenizer);
    this.linear = description.linear && new LinearModel(description.linear, description.facts.labels.length, buffer);
    this.size = description.step.logits[1][1];
    this.begin = generation.begin || [];
    this.promptEnd = generation.prompt_end || [];
    this.rawBytes = generation.raw_bytes || false;
    this.unsampled = new Set([...(generation.suppress_tokens || []), ...this.promptEnd]);
    if (!description.facts) {
      this.guard = new CharacterGuard(this);
      this.healing = new Healing(this);
      this.blankEnds = [this.tokenizer.boundary];
      this.tokenizer.tokens.forEach((token, id) => /^[\t\x0b\x0c\x1c-\x1f ]*[\r\n]/.test(token) && this.blankEnds.push(id));
    }
  }

  options(given = {}) {
    const unknown = Object.keys(given).find((name) => !Object.hasOwn(DEFAULTS, name));
    if (unknown) throw new ModelError(`there is no option ${unknown}; there are ${Object.keys(DEFAULTS).join(", ")}.`);
    const kept = Object.entries(this.description.generation.sampling || {}).filter(([name]) => Object.hasOwn(DEFAULTS, name));
    const options = { ...DEFAULTS, ...Object.fromEntries(kept), ...given };
    for (const [name, [low, high]] of Object.entries(LIMITS)) {
      if (!(options[name] >= low && options[name] <= high)) {
        throw new ModelError(`${name} must be a number from ${low} to ${high}, not ${options[name]}.`);
      }
    }
    options.seed ??= Math.floor(Math.random() * 2 ** 31);
    return options;
  }

  *stream(prompt = "", given = {}) {
    // Continue a prompt, piece by piece.
    if (this.description.facts) throw new ModelError(`this model writes no text: it is one for ${this.task}.`);
    const options = this.options(given), encoded = this.tokenizer.encode(prompt);
    let ids = [...this.begin, ...encoded, ...this.promptEnd];
    if (!ids.length) ids = [this.tokenizer.boundary];
    const heals = options.heal && !this.promptEnd.length && options.max_new_tokens !== 0;
    const [number, left] = heals ? this.healing.givenBack(ids.slice(Math.max(1, this.begin.length))) : [0, ""];
    ids = ids.slice(0, ids.length - number);
    const writer = new Writer(this, options, prompt.slice(0, prompt.length - textOf(left).length), left);
    writer.see(ids);
    let state = this.stepper.initial, outputs;
    for (const id of ids) [outputs, state] = this.stepper.step(id, state);
    while (!writer.ended && options.max_new_tokens !== 0) {
      const id = writer.choose(outputs), piece = writer.take(id);
      if (piece) yield piece;
      if (!writer.ended) [outputs, state] = this.stepper.step(id, state);
    }
  }

  generate(prompt = "", given = {}) {
    return [...this.stream(prompt, given)].join("");
  }

  classify(text) {
    // The probability of each label.
    if (!this.description.facts?.labels) throw new ModelError(`this model labels no texts: it is one for ${this.task}.`);
    const ids = [this.tokenizer.boundary, ...this.tokenizer.encode(text)], { labels, pooling, temperature, multi_label: several } = this.description.facts;
    if (ids.length === 1 || !text.trim()) throw new ModelError("the text is empty.");
    let state = this.stepper.initial, outputs, pooled;
    for (const id of ids) {
      [outputs, state] = this.stepper.step(id, state);
      if (!pooled || pooling === "last") pooled = Float64Array.from(outputs);
      else pooled.forEach((value, k) => (pooled[k] = pooling === "max" ? Math.max(value, outputs[k]) : value + outputs[k]));
    }
    if (pooling === "mean") pooled = pooled.map((value) => value / ids.length);
    if (this.linear) {
      const total = several ? 0 : logSum(pooled, 0, pooled.length, 1);
      pooled = this.linear.blended(text, pooled.map((value) => value - total));
    }
    pooled = pooled.map((value) => value / temperature);
    if (several) return Object.fromEntries(labels.map((label, k) => [label, 1 / (1 + Math.exp(-pooled[k]))]));
    const total = logSum(pooled, 0, pooled.length, 1);
    return Object.fromEntries(labels.map((label, k) => [label, Math.exp(pooled[k] - total)]));
  }
}

export async function load(place) {
  // The model whose `model.json` is at an address, or in node also at a path; `model.bin` is beside it.
  const isPath = globalThis.process?.versions?.node && !/^https?:/.test(place);
  if (isPath) {
    const { readFile } = await import("node:fs/promises"), bytes = await readFile(`${place}`.replace(/json$/, "bin"));
    return new Model(JSON.parse(await readFile(place, "utf8")), bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  }
  const [description, weights] = await Promise.all([fetch(place), fetch(`${place}`.replace(/json$/, "bin"))]);
  return new Model(await description.json(), await weights.arrayBuffer());
}
