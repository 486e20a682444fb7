/** A model that `textgen export MODEL --format js DIR` wrote, run in JavaScript. */

export interface Options {
  max_new_tokens?: number;
  temperature?: number;
  top_k?: number;
  top_p?: number;
  min_p?: number;
  repetition_penalty?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  repeat_last_n?: number;
  stop?: string[];
  /** Write one item of one line. */
  lines?: boolean;
  /** Continue the last word of the prompt, even if it is not finished. */
  heal?: boolean;
  ignore_eos?: boolean;
  /** The same seed gives the text that `textgen sample` writes, but for near-ties. */
  seed?: number | bigint | null;
}

export interface ForecastOptions {
  /** Which of the exported series, from 0. */
  series?: number;
  horizon?: number;
  /** Sample paths for the interval; 0 for none. */
  paths?: number;
  level?: number;
  seed?: number;
}

export interface Forecast {
  name: string;
  times: (string | number)[];
  values: number[];
  low: number[] | null;
  high: number[] | null;
  history: number[];
}

export class ModelError extends Error {}

export class Model {
  constructor(description: object, weights: ArrayBuffer);
  readonly task: string;
  /** Continue a prompt, piece by piece. */
  stream(prompt?: string, options?: Options): Generator<string, void, void>;
  /** The text that follows a prompt. */
  generate(prompt?: string, options?: Options): string;
  /** The probability of each label of a text. */
  classify(text: string): Record<string, number>;
  /** What comes after the training data of a series and these later values of it. */
  forecast(values?: number[], options?: ForecastOptions): Forecast;
}

/** Open the model whose `model.json` is at an address, or in node also at a path; `model.bin` is beside it. */
export function load(place: string): Promise<Model>;
