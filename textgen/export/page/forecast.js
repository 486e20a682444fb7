// Forecasts of series: part of textgen.js, after runtime.js.
//
// A model gives a Student-t distribution of the next value, which is fed back as the value of the next step.

const SCALE_AT_ZERO = 0.541324854612918, LEAST_SCALE = 1e-3, LEAST_FREEDOM = 2.1, FREEDOM_AT_ZERO = 6, FARTHEST = 8;
const clip = (x, low, high) => Math.max(low, Math.min(high, x));
const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

class Smoothing {
  // Exponential smoothing of a series with several settings, as in textgen's smoothing.py.
  constructor(about) {
    const copy = (values) => values.map((value) => (Array.isArray(value) ? copy(value) : value));
    const { level, trend, carried, seasons } = about;
    Object.assign(this, { ...about, level: copy(level), trend: copy(trend), carried: copy(carried), seasons: copy(seasons), step: 0 });
  }

  read(value) {
    this.weights.forEach((_, k) => {
      const { rates } = this, moved = rates.damping[k] * this.trend[k], here = this.seasons.map((season) => season[this.step % season.length]);
      const base = here.reduce((sum, season) => sum + season[k], this.level[k] + moved);
      const error = value - base - rates.carry[k] * this.carried[k];
      this.level[k] += moved + rates.level[k] * error;
      this.trend[k] = moved + rates.trend[k] * error;
      here.forEach((season, s) => { season[k] += this.season_rates[s][k] * error; });
      this.carried[k] = rates.carry[k] * this.carried[k] + error;
    });
    this.step += 1;
  }

  ahead(horizon) {
    const found = new Array(horizon).fill(0), { damping, carry } = this.rates;
    this.weights.forEach((weight, k) => {
      let level = this.level[k], trend = this.trend[k], carried = this.carried[k];
      for (let h = 0; h < horizon; h += 1) {
        trend *= damping[k];
        carried *= carry[k];
        level += trend;
        found[h] += weight * this.seasons.reduce((sum, season) => sum + season[(this.step + h) % season.length][k], level + carried);
      }
    });
    return found;
  }
}

class Series {
  // One series as a forecaster reads it: the end of its training data, and what came after.
  constructor(model, about, values) {
    const { offsets, seasons, context } = model.description.facts;
    Object.assign(this, { about, offsets, seasons, stepper: model.stepper });
    const { transform, centre, spread } = about.scale, least = Math.exp(centre) * 1e-3;
    const scaled = values.map((value) => ((transform === "log" ? Math.log(Math.max(value, least)) : value) - centre) / spread);
    this.values = [...about.scaled, ...scaled];
    this.length = this.values.length;
    this.floor = about.nonnegative && values.every((value) => value >= 0) ? about.zero : -Infinity;
    const { room } = about, last = this.values[this.length - 1];
    this.least = Math.max(Math.min(about.scale.low, last) - room, this.floor);
    this.greatest = Math.max(about.scale.high, last) + room;
    this.season = model.description.facts.season;
    this.smoothing = about.smoothing && new Smoothing(about.smoothing);
    if (this.smoothing) scaled.forEach((value) => this.smoothing.read(value));
    this.state = this.stepper.initial;
    for (let k = Math.max(0, this.length - context); k < this.length; k += 1) {
      [this.outputs, this.state] = this.stepper.step(this.inputs(this.values, k), this.state);
    }
  }

  seen(values, place) {
    return this.offsets.map((offset) => values[Math.max(0, place - offset)]);
  }

  base(seen) {
    const [w0, w1, w2] = this.about.weights;
    return seen[0] * w0 + seen[3] * w1 + seen[4] * w2;
  }

  inputs(values, place) {
    // What the model reads at a time step, as `features` in textgen's scaling.py.
    const seen = this.seen(values, place), now = seen[0], { about } = this, { step_unit, season_unit, base_unit } = about.scale;
    const [w0, w1, w2] = about.weights, base = seen[1] * w0 + seen[4] * w1 + seen[5] * w2;
    const found = [
      (now - seen[1]) / step_unit, (seen[1] - seen[2]) / step_unit, (now - base) / base_unit, 2 * Math.tanh(now / 2),
      about.missing[place] || 0,
    ];
    if (this.seasons) {
      const back = seen.slice(6).map((value) => (value - now) / season_unit);
      found.push((now - seen[4]) / season_unit, back.reduce((sum, value) => sum + value, 0) / back.length, ...back);
    }
    const extras = about.extras[Math.min(place, about.extras.length - 1)];
    return [...found.map((value) => clip(value, -FARTHEST, FARTHEST)), ...extras, ...about.calendar[place]];
  }

  rollOut(horizon, reach, noise) {
    // The next scaled values: the location of each distribution, or with noise a sample of it (Bailey 1994).
    const values = [...this.values];
    let { outputs, state } = this;
    for (let ahead = 0; ahead < horizon; ahead += 1) {
      let location = ahead < reach ? outputs[0] : 0;
      if (noise) {
        const scale = softplus(outputs[1] + SCALE_AT_ZERO) + LEAST_SCALE, freedom = LEAST_FREEDOM + softplus(outputs[2] + FREEDOM_AT_ZERO);
        const radius = Math.sqrt(freedom * (Math.max(noise.uniform(), 1e-12) ** (-2 / freedom) - 1));
        location += scale * radius * Math.cos(2 * Math.PI * noise.uniform());
      }
      const place = this.length + ahead, base = this.base(this.seen(values, place - 1));
      values.push(clip(base + this.about.scale.base_unit * location, this.least, this.greatest));
      if (ahead + 1 < horizon) [outputs, state] = this.stepper.step(this.inputs(values, place), state);
    }
    return values.slice(this.length);
  }

  combined(recurrent) {
    // The weighted mean of the scaled forecasts of every kind, as in textgen's combining.py.
    const { combination } = this.about, { length, values, season } = this, smoothed = this.smoothing?.ahead(recurrent.length);
    return recurrent.map((value, h) => (
      combination.recurrent * value
      + combination["last value"] * values[length - 1]
      + combination["seasonal naive"] * values[Math.max(0, length + h - season * Math.ceil((h + 1) / season))]
      + (smoothed ? combination.smoothed * clip(smoothed[h], this.least, this.greatest) : 0)
    ));
  }

  restored(scaled) {
    const { transform, centre, spread } = this.about.scale, value = scaled * spread + centre;
    const back = transform === "log" ? Math.exp(Math.min(value, 700)) : value;
    return this.floor > -Infinity ? (scaled <= this.floor ? 0 : Math.max(back, 0)) : back;
  }
}

function quantile(sorted, share) {
  const place = share * (sorted.length - 1), below = Math.floor(place), above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

Model.prototype.forecast = function forecast(values = [], { series = 0, horizon, paths = 200, level = 90, seed = 0 } = {}) {
  // The forecast after the training data and these later values of a series: times, values, and the bounds of an interval.
  const { facts } = this.description, about = facts?.series?.[series], steps = horizon ?? facts?.horizon;
  if (!about) throw new ModelError("this model forecasts no such series.");
  if (!values.every(Number.isFinite)) throw new ModelError("every value must be a number.");
  const most = about.calendar.length - about.scaled.length - values.length;
  if (!(steps >= 1 && steps <= most)) throw new ModelError(`horizon must be a number from 1 to ${Math.max(0, most)}, not ${steps}.`);
  const read = new Series(this, about, values), noise = new Noise(seed), tail = (1 - level / 100) / 2;
  const recurrent = read.rollOut(steps, facts.reach), combined = read.combined(recurrent);
  const around = (value, h) => clip(combined[h] + about.stretch * (value - recurrent[h]), read.least, read.greatest);
  const middle = combined.map((each) => read.restored(each));
  const drawn = Array.from({ length: paths }, () => read.rollOut(steps, facts.reach, noise).map((each, h) => read.restored(around(each, h))));
  const bound = (share) => middle.map((_, k) => quantile(drawn.map((path) => path[k]).sort((a, b) => a - b), share));
  const begin = about.scaled.length + values.length;
  return {
    name: about.name, times: about.times.slice(begin, begin + steps), values: middle,
    low: paths ? bound(tail) : null, high: paths ? bound(1 - tail) : null,
    history: [...about.values, ...values],
  };
};
