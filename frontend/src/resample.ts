/**
 * Sound of one sample rate to another, over a stream: a windowed sinc, evaluated at each new sample.
 * For browsers whose AudioContext must have the microphone's own rate.
 */
const CROSSINGS = 16; // of the sinc on each side; more is sharper and slower
const PASSED = 0.92; // of the lower Nyquist frequency; what lies between is half suppressed

export class Resampler {
  readonly #from_hz: number;
  readonly #to_hz: number;
  readonly #cutoff: number; // relative to the input's Nyquist frequency
  readonly #reach: number; // input samples on each side of an output sample
  readonly #taps = new Map<number, Float32Array>(); // by the place between two input samples
  #input = new Float32Array(0); // from #first on
  #first: number;
  #whole = 0; // the next output lies at input sample #whole + #part / to_hz
  #part = 0;

  constructor(fromHz: number, toHz: number) {
    this.#from_hz = fromHz;
    this.#to_hz = toHz;
    this.#cutoff = PASSED * Math.min(1, toHz / fromHz);
    this.#reach = Math.ceil(CROSSINGS / this.#cutoff);
    // Before the first sample there was silence.
    this.#first = -this.#reach;
    this.#input = new Float32Array(this.#reach);
  }

  /** The samples that can be computed now; the last few wait for what follows them. */
  push(samples: Float32Array): Float32Array {
    const input = new Float32Array(this.#input.length + samples.length);
    input.set(this.#input);
    input.set(samples, this.#input.length);
    const end = this.#first + input.length;
    const output: number[] = [];
    while (this.#whole + this.#reach < end) {
      const taps = this.#tapsAt(this.#part);
      const start = this.#whole - this.#reach - this.#first;
      let sum = 0;
      for (let index = 0; index < taps.length; index += 1) sum += (taps[index] ?? 0) * (input[start + index] ?? 0);
      output.push(sum);
      this.#part += this.#from_hz;
      this.#whole += Math.floor(this.#part / this.#to_hz);
      this.#part %= this.#to_hz;
    }
    const needed = Math.max(0, Math.min(input.length, this.#whole - this.#reach - this.#first));
    this.#first += needed;
    this.#input = input.slice(needed);
    return Float32Array.from(output);
  }

  /** The rest, as if silence followed. */
  finish(): Float32Array {
    return this.push(new Float32Array(this.#reach));
  }

  #tapsAt(part: number): Float32Array {
    const known = this.#taps.get(part);
    if (known) return known;
    const taps = new Float32Array(2 * this.#reach + 1);
    let sum = 0;
    for (let index = 0; index < taps.length; index += 1) {
      const distance = index - this.#reach - part / this.#to_hz;
      const inside = Math.abs(distance) < this.#reach;
      const window = inside ? 0.5 + 0.5 * Math.cos((Math.PI * distance) / this.#reach) : 0;
      const x = Math.PI * this.#cutoff * distance;
      const tap = window * (x === 0 ? 1 : Math.sin(x) / x);
      taps[index] = tap;
      sum += tap;
    }
    for (let index = 0; index < taps.length; index += 1) taps[index] = (taps[index] ?? 0) / sum; // silence stays silence, and a level a level
    this.#taps.set(part, taps);
    return taps;
  }
}

/** Samples from -1 to 1 as 16 bit ones. */
export function toPcm(samples: Float32Array): Int16Array {
  return Int16Array.from(samples, (sample) => Math.max(-32768, Math.min(32767, Math.round(sample * 32768))));
}
