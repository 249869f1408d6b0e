/** Sound at another rate is the same sound: its length, its level, and nothing that was not there. */
import { expect, it } from "vitest";

import { Resampler, toPcm } from "../src/resample.ts";

const TO_HZ = 16_000;

const tone = (rate_hz: number, hz: number, seconds = 1): Float32Array =>
  Float32Array.from({ length: rate_hz * seconds }, (_, at) => Math.sin((2 * Math.PI * hz * at) / rate_hz));

function resampled(input: Float32Array, from_hz: number, piece = 128): Float32Array {
  const resampler = new Resampler(from_hz, TO_HZ);
  const output: number[] = [];
  for (let at = 0; at < input.length; at += piece) output.push(...resampler.push(input.subarray(at, at + piece)));
  output.push(...resampler.finish());
  return Float32Array.from(output);
}

/** The mean power of the middle, without the edges. */
function power(samples: Float32Array): number {
  const middle = samples.subarray(1000, samples.length - 1000);
  return middle.reduce((sum, sample) => sum + sample * sample, 0) / middle.length;
}

it.each([8_000, 16_000, 22_050, 44_100, 48_000, 96_000])("keeps a tone of 1 kHz from %i Hz, sample for sample", (from_hz) => {
  const output = resampled(tone(from_hz, 1000), from_hz);
  const wanted = tone(TO_HZ, 1000);

  expect(Math.abs(output.length - wanted.length)).toBeLessThanOrEqual(1);
  const error = Math.max(...Array.from({ length: 14_000 }, (_, at) => Math.abs((output[at + 1000] ?? 9) - (wanted[at + 1000] ?? 9))));
  expect(error).toBeLessThan(0.002);
});

it.each([44_100, 48_000])("lets nothing from above the new rate's half come back as another tone (%i Hz)", (from_hz) => {
  for (const hz of [9_500, 12_000, 15_000, 20_000]) {
    expect(10 * Math.log10(power(resampled(tone(from_hz, hz), from_hz)) / 0.5), `${hz} Hz`).toBeLessThan(-40);
  }
});

it("does not depend on how the sound is cut into pieces", () => {
  const input = tone(44_100, 440, 0.2);

  expect(resampled(input, 44_100, 1)).toEqual(resampled(input, 44_100, 128));
  expect(resampled(input, 44_100, 5000)).toEqual(resampled(input, 44_100, 128));
});

it("makes 16 bit samples, and cuts off what is too loud", () => {
  expect([...toPcm(Float32Array.from([0, 0.5, -0.5, 1, -1, 2, -2]))]).toEqual([0, 16384, -16384, 32767, -32768, 32767, -32768]);
});
