// The page: sources and settings on one side, the worker's pictures and numbers on the other.

import { SourceError, closeCamera, nextFrame, openCamera, pixelsOf, readFile } from "./sources.js";

const EXAMPLES = { astronaut: "Astronaut", cat: "Cat", coffee: "Coffee", rocket: "Rocket" }; // in examples/
const MEGABYTE = 1e6;

const get = (id) => document.getElementById(id);
const status = (text) => {
  if (get("status").textContent !== text) get("status").textContent = text; // spoken only when it changes
};

let worker = null;
let ready = false;
let source = null; // an ImageBitmap, or the webcam's video
let camera = null;
let busy = false; // the worker has an image
let changed = false; // since that image was sent

// ---- Messages ----

function say(sentence = "") {
  get("message").textContent = sentence;
  get("message").hidden = !sentence;
}

function fail(sentence) {
  ready = false;
  get("loading").hidden = true;
  status("");
  say(sentence);
}

/** Run a handler; failures of sources are sentences on the page. */
function guarded(handler) {
  return async (...values) => {
    say();
    try {
      await handler(...values);
    } catch (error) {
      if (!(error instanceof SourceError)) throw error;
      say(error.message);
    }
  };
}

// ---- The worker ----

/** Start it on a device, in place of the one before. */
function start(device) {
  worker?.terminate();
  [ready, busy] = [false, false];
  get("loading").hidden = false;
  get("progress").value = 0;
  get("progress-size").textContent = "";
  get("device").value = device;
  status("Loading…");
  // A worker with an address of its own would have its own policy: one from a blob is bound by this page's.
  const code = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  worker = new Worker(address, { type: "module" });
  worker.onerror = (event) => {
    event.preventDefault();
    fail(`The demo could not be started: ${event.message || "a file is missing"}. Reload the page to try again.`);
  };
  worker.onmessage = ({ data }) => handlers[data.kind](data, device);
  worker.postMessage({ kind: "start", device });
}

const handlers = {
  progress({ loaded, total }) {
    get("progress").value = loaded / total;
    const [now, all] = [loaded, total].map((bytes) => (bytes / MEGABYTE).toFixed(1));
    get("loaded").textContent = `${now} MB`;
    get("progress-size").textContent = `${now} of ${all} MB`;
    get("progress").setAttribute("aria-valuetext", `${now} of ${all} megabytes`);
    if (loaded === total) status("Starting the network…");
  },
  ready({ device, threads }) {
    ready = true;
    get("loading").hidden = true;
    const place = device === "webgpu" ? "the GPU (WebGPU)" : `the CPU (WebAssembly, ${threads} thread${threads > 1 ? "s" : ""})`;
    get("runtime").textContent = `ONNX Runtime Web on ${place}`;
    status("Ready.");
    update();
  },
  result(result) {
    busy = false;
    show(result);
    if (camera && source === camera) nextFrame(camera, update);
    else if (changed) update();
    else status("Ready.");
  },
  error({ during, message }, device) {
    busy = false;
    if (during === "start" && device === "webgpu") {
      start("wasm");
      say(`The GPU could not be used (${message}), so the network runs on the CPU.`);
    } else if (during === "start") fail(`The demo could not be started: ${message}. Reload the page to try again.`);
    else say(`This image could not be inverted: ${message}.`);
  },
};

/** Send the current image to the worker, or once it has finished the one before. */
function update() {
  if (!ready || !source || (camera && source === camera && camera.readyState < 2)) return;
  if (busy) {
    changed = true;
    return;
  }
  [busy, changed] = [true, false];
  status(source === camera ? "Webcam is running." : "Computing…");
  const image = pixelsOf(source, Number(get("size").value));
  const { data: pixels, width, height } = image;
  const dropout = Number(get("dropout").value) / 100;
  worker.postMessage({ kind: "invert", pixels, width, height, dropout }, [pixels.buffer]);
}

function put(canvas, pixels, width, height) {
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
}

function show({ width, height, pixels, reconstruction, glyphs, hogTime, networkTime, psnr }) {
  put(get("photograph"), pixels, width, height);
  put(get("glyphs"), glyphs.pixels, glyphs.width, glyphs.height);
  put(get("reconstruction"), reconstruction, width, height);
  get("pictures").setAttribute("aria-busy", "false");
  get("photograph-size").textContent = `${width} × ${height}`;
  get("features-size").textContent = `31 × ${glyphs.height / 16} × ${glyphs.width / 16}`;
  get("hog-time").textContent = `${hogTime.toFixed(1)} ms`;
  get("network-time").textContent = `${networkTime.toFixed(0)} ms`;
  get("psnr").textContent = `${psnr.toFixed(1)} dB`;
}

// ---- Sources ----

/** Show a bitmap; null keeps the webcam's last frame. */
async function choose(bitmap) {
  if (camera) {
    const video = camera;
    camera = null;
    get("camera").setAttribute("aria-pressed", "false");
    get("camera").textContent = "Use the webcam";
    bitmap ??= await lastFrame(video);
    closeCamera(video);
  }
  source = bitmap;
  update();
}

/** Return the frame that is shown, as a bitmap that is mirrored as it is shown. */
async function lastFrame(video) {
  return video.videoWidth ? createImageBitmap(pixelsOf(video, video.videoHeight)) : null;
}

const chooseFile = guarded(async (file) => {
  if (!file) return;
  await choose(await readFile(file));
  get("example").value = "";
});

const chooseExample = guarded(async (name) => {
  const response = await fetch(new URL(`examples/${name}.jpg`, import.meta.url));
  if (!response.ok) throw new SourceError(`examples/${name}.jpg could not be loaded: the server answered ${response.status}.`);
  await choose(await readFile(new File([await response.blob()], `${name}.jpg`)));
});

const toggleCamera = guarded(async () => {
  if (camera) {
    await choose(null);
    return;
  }
  get("camera").disabled = true;
  try {
    camera = await openCamera();
  } finally {
    get("camera").disabled = false;
  }
  source = camera;
  get("camera").setAttribute("aria-pressed", "true");
  get("camera").textContent = "Stop the webcam";
  get("example").value = "";
  camera.srcObject.getVideoTracks()[0].onended = guarded(async () => {
    await choose(null);
    throw new SourceError("The webcam was disconnected.");
  });
  update();
});

// ---- Controls ----

function showSettings() {
  get("size-value").textContent = `${get("size").value} pixels`;
  get("dropout-value").textContent = `${get("dropout").value} %`;
}

function listen() {
  get("example").append(new Option("—", "", true, true));
  get("example").firstChild.disabled = true;
  for (const [name, title] of Object.entries(EXAMPLES)) get("example").append(new Option(title, name));
  get("example").onchange = () => chooseExample(get("example").value);
  get("file").onchange = async () => {
    await chooseFile(get("file").files[0]);
    get("file").value = ""; // so that the same file can be chosen again
  };
  get("camera").onclick = toggleCamera;
  get("device").onchange = () => start(get("device").value);
  for (const id of ["size", "dropout"]) {
    get(id).oninput = () => {
      showSettings();
      update();
    };
  }
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    chooseFile(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => chooseFile(event.clipboardData.files[0]));
  showSettings();
}

/** Return whether the browser has what the worker needs. */
function supported() {
  // A module whose function returns the first byte of a vector: WebAssembly's SIMD instructions.
  const simd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
  let modules = false; // a browser that knows module workers asks for the type
  const options = {
    get type() {
      modules = true;
      return "module";
    },
  };
  new Worker(URL.createObjectURL(new Blob([])), options).terminate();
  return modules && typeof WebAssembly === "object" && WebAssembly.validate(new Uint8Array(simd));
}

async function main() {
  listen();
  if (!supported()) {
    fail("This browser is too old for the demo, which needs WebAssembly SIMD and module workers: Chrome and Edge 91, Firefox 114, Safari 16.4, or later.");
    return;
  }
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const emulated = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter; // by the CPU
  get("device-field").hidden = !adapter;
  start(adapter && !emulated ? "webgpu" : "wasm");
  get("example").value = "astronaut";
  await chooseExample("astronaut");
}

main();
