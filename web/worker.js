// Everything that takes time, in a thread of its own: HOG, the network, and the drawing of the features.
//
// Receives {kind: "start", device} once, answers {kind: "progress", loaded, total}, then {kind: "ready", …}. Receives
// {kind: "invert", …} at any time after that, answers {kind: "result", …}. Any failure is {kind: "error", message}.

import { download } from "./download.js";
import { drawGlyphs } from "./glyphs.js";
import { loadHog } from "./hog.js";

const RUNTIMES = {
  wasm: { module: "./ort/ort.wasm.bundle.min.js", binary: "ort/ort-wasm-simd-threaded.wasm" },
  webgpu: { module: "./ort/ort.webgpu.bundle.min.js", binary: "ort/ort-wasm-simd-threaded.asyncify.wasm" },
};
const MODEL = "hog-compact.onnx";
const HOG = "hog.wasm";

let hog, ort, session;
let queue = Promise.resolve(); // a session runs one image at a time

/** Load the kernel, the runtime and the network; `device` is "wasm" or "webgpu". */
async function start(device) {
  const { sizes } = JSON.parse(new TextDecoder().decode(await download("build.json")));
  const { module, binary } = RUNTIMES[device];
  const names = [HOG, MODEL, binary];
  const total = names.reduce((sum, name) => sum + sizes[name], 0);
  let loaded = 0;
  const onBytes = (bytes) => {
    loaded += bytes;
    postMessage({ kind: "progress", loaded, total });
  };
  const [kernel, model, wasmBinary, runtime] = await Promise.all([
    ...names.map((name) => download(name, onBytes)),
    import(module),
  ]);
  hog = await loadHog(kernel);
  ort = runtime;
  // Threads share memory, which browsers allow only to pages that their server isolates from other sites.
  const threads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.wasm.wasmBinary = wasmBinary.buffer;
  ort.env.wasm.numThreads = threads;
  session = await ort.InferenceSession.create(model, {
    executionProviders: [device],
    logSeverityLevel: 3, // errors only
  });
  await invert({ pixels: new Uint8ClampedArray(4 * 64 * 64), width: 64, height: 64, dropout: 0 }); // the first is slow
  postMessage({ kind: "ready", device, threads });
}

/** Set a share of the features to zero, always the same ones. */
function drop(features, share) {
  let state = 1;
  for (let index = 0; share > 0 && index < features.length; index++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes' generator
    if (state < share * 2 ** 32) features[index] = 0;
  }
}

/** Return values of (3, height, width) in [0, 1] as RGBA pixels. */
function toPixels(values, width, height) {
  const area = width * height;
  const pixels = new Uint8ClampedArray(4 * area);
  for (let pixel = 0; pixel < area; pixel++) {
    for (let channel = 0; channel < 3; channel++) pixels[4 * pixel + channel] = 255 * values[channel * area + pixel];
    pixels[4 * pixel + 3] = 255;
  }
  return pixels;
}

/** Return the peak signal-to-noise ratio of two images of RGBA pixels in decibels. */
function psnr(first, second) {
  let sum = 0;
  for (let index = 0; index < first.length; index++) {
    if (index % 4 < 3) sum += (first[index] - second[index]) ** 2;
  }
  return 10 * Math.log10((255 ** 2 * 0.75 * first.length) / sum);
}

async function invert({ pixels, width, height, dropout }) {
  const began = performance.now();
  const { features, rows, columns } = hog(pixels, width, height);
  const described = performance.now();
  drop(features, dropout);
  const input = new ort.Tensor("float32", features, [1, 31, rows, columns]);
  const dropped = performance.now();
  const { images } = await session.run({ features: input });
  const values = await images.getData();
  const ended = performance.now();
  images.dispose();
  const reconstruction = toPixels(values, width, height);
  return {
    width,
    height,
    pixels,
    reconstruction,
    glyphs: { pixels: drawGlyphs(features, rows, columns), width: 16 * columns, height: 16 * rows },
    hogTime: described - began,
    networkTime: ended - dropped,
    psnr: psnr(pixels, reconstruction),
  };
}

async function answer({ data }) {
  try {
    if (data.kind === "start") {
      await start(data.device);
    } else {
      const result = await invert(data);
      const moved = [result.pixels.buffer, result.reconstruction.buffer, result.glyphs.pixels.buffer];
      postMessage({ kind: "result", ...result }, moved);
    }
  } catch (error) {
    postMessage({ kind: "error", during: data.kind, message: error?.message ?? String(error) });
  }
}

onmessage = (event) => {
  queue = queue.then(() => answer(event));
};
