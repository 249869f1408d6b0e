/**
 * Runs on the browser's audio thread: the microphone's sound as 16 bit samples at the wanted rate, a tenth of a second
 * at a time. A message to it ends it: the rest comes, and then null.
 */
import { Resampler, toPcm } from "./resample.ts";

// What a worklet's global scope has; TypeScript's DOM library does not know it.
declare abstract class AudioWorkletProcessor {
  readonly port: MessagePort;
}
declare function registerProcessor(name: string, processor: new (options: AudioWorkletNodeOptions) => AudioWorkletProcessor): void;
declare const sampleRate: number;

const BLOCKS_PER_S = 10;

class PcmProcessor extends AudioWorkletProcessor {
  readonly #resampler: Resampler | null;
  readonly #block: Int16Array;
  #filled = 0;
  #ended = false;

  constructor(options: AudioWorkletNodeOptions) {
    super();
    const { rateHz } = options.processorOptions as { rateHz: number };
    this.#resampler = rateHz === sampleRate ? null : new Resampler(sampleRate, rateHz);
    this.#block = new Int16Array(rateHz / BLOCKS_PER_S);
    this.port.onmessage = () => this.#end();
  }

  process(inputs: Float32Array[][]): boolean {
    const channel = inputs[0]?.[0];
    if (channel && !this.#ended) this.#add(this.#resampler ? this.#resampler.push(channel) : channel);
    return !this.#ended;
  }

  #add(samples: Float32Array): void {
    const pcm = toPcm(samples);
    for (let at = 0; at < pcm.length; ) {
      const part = pcm.subarray(at, at + this.#block.length - this.#filled);
      this.#block.set(part, this.#filled);
      this.#filled += part.length;
      at += part.length;
      if (this.#filled === this.#block.length) this.#post();
    }
  }

  #post(): void {
    if (this.#filled > 0) this.port.postMessage(this.#block.slice(0, this.#filled));
    this.#filled = 0;
  }

  #end(): void {
    if (this.#ended) return;
    if (this.#resampler) this.#add(this.#resampler.finish());
    this.#ended = true;
    this.#post();
    this.port.postMessage(null);
  }
}

registerProcessor("pcm", PcmProcessor);
