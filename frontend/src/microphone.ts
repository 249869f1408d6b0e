/**
 * The microphone, from the moment it is opened to the moment it is closed, and not a sample longer.
 * Knows nothing of who listens.
 */
import workletUrl from "./pcm-worklet.ts?worker&url";

/** Why there is no sound, in the page's words for it. */
export class MicrophoneError extends Error {
  override readonly name = "MicrophoneError";
  constructor(readonly code: "microphone_insecure" | "microphone_denied" | "microphone_missing" | "microphone_busy") {
    super(code);
  }
}

export interface Microphone {
  /** Hands on the last samples, stops the tracks and closes the context. Twice is once. */
  close(): Promise<void>;
}

export interface MicrophoneOptions {
  rateHz: number;
  onAudio: (samples: Int16Array) => void;
  /** It was pulled out, or taken away. */
  onLost: () => void;
}

/** How long the audio thread may take for the last samples. */
const LAST_MS = 300;

const CODES: Record<string, MicrophoneError["code"]> = {
  NotAllowedError: "microphone_denied",
  SecurityError: "microphone_denied",
  NotFoundError: "microphone_missing",
  OverconstrainedError: "microphone_missing",
};

async function openStream(): Promise<MediaStream> {
  // Without HTTPS, and not on this machine, browsers have no media devices at all.
  if (!isSecureContext || !navigator.mediaDevices) throw new MicrophoneError("microphone_insecure");
  try {
    // Nothing is played that could echo, and a recogniser hears better what no filter has touched.
    const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new MicrophoneError(CODES[(error as DOMException).name] ?? "microphone_busy");
  }
}

/** A context at the wanted rate where the browser resamples, else at the microphone's own; and the source in it. */
function connectSource(stream: MediaStream, rateHz: number): { context: AudioContext; source: MediaStreamAudioSourceNode } {
  let context: AudioContext | null = null;
  try {
    context = new AudioContext({ sampleRate: rateHz });
    return { context, source: context.createMediaStreamSource(stream) };
  } catch {
    void context?.close();
    context = new AudioContext();
    return { context, source: context.createMediaStreamSource(stream) };
  }
}

/** Throws MicrophoneError. Once `signal` is aborted nothing is recorded: it throws, and whatever was open is closed. */
export async function openMicrophone(options: MicrophoneOptions, signal: AbortSignal): Promise<Microphone> {
  const { rateHz, onAudio, onLost } = options;
  const stream = await openStream();
  const stopTracks = (): void => {
    for (const track of stream.getTracks()) track.stop();
  };
  let context: AudioContext | null = null;
  try {
    signal.throwIfAborted();
    const connected = connectSource(stream, rateHz);
    context = connected.context;
    await context.audioWorklet.addModule(workletUrl);
    await context.resume();
    signal.throwIfAborted();
    const node = new AudioWorkletNode(context, "pcm", { numberOfOutputs: 0, processorOptions: { rateHz } });
    const last = new Promise<void>((resolve) => {
      node.port.onmessage = ({ data }: MessageEvent<Int16Array | null>) => (data === null ? resolve() : onAudio(data));
    });
    connected.source.connect(node);
    for (const track of stream.getTracks()) track.addEventListener("ended", onLost);
    return { close: once(() => shut(connected.context, node, last, stopTracks)) };
  } catch (error) {
    stopTracks();
    await context?.close();
    throw error;
  }
}

async function shut(context: AudioContext, node: AudioWorkletNode, last: Promise<void>, stopTracks: () => void): Promise<void> {
  stopTracks();
  node.port.postMessage("end");
  await Promise.race([last, new Promise((resolve) => setTimeout(resolve, LAST_MS))]);
  node.port.onmessage = null;
  node.disconnect();
  await context.close();
}

function once(close: () => Promise<void>): () => Promise<void> {
  let closed: Promise<void> | null = null;
  return () => (closed ??= close());
}
