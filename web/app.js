// The page: sends sources and settings to the worker, and shows the images and numbers that it returns.

import { download } from "./download.js";
import { SourceError, closeCamera, lastFrame, nextFrame, openCamera, pixelsOf, readFile } from "./sources.js";

const EXAMPLES = { astronaut: "Astronaut", cat: "Cat", coffee: "Coffee", rocket: "Rocket" }; // in examples/
const MEGABYTE = 1e6;

const get = (id) => document.getElementById(id);
const status = (text) => {
  if (get("status").textContent !== text) get("status").textContent = text; // spoken only when it changes
};

let worker = null;
let ready = false;
let failure = ""; // why the demo does not run
let source = null; // an ImageBitmap, the webcam's video, or a canvas with its last frame
let example = ""; // the name of the one that is shown
let choices = 0; // of sources, so far
let busy = false; // the worker has an image
let changed = false; // since that image was sent

// ---- Messages ----

function say(sentence = failure) {
  get("message").textContent = sentence;
  get("message").hidden = !sentence;
}

function fail(sentence) {
  worker?.terminate();
  [ready, failure] = [false, sentence];
  get("loading").hidden = true;
  get("pictures").setAttribute("aria-busy", "false");
  status("");
  say();
}

const webcamRuns = () => source instanceof HTMLVideoElement;

// ---- The worker ----

/** Start a worker on a device, in place of the one before. */
function start(device) {
  worker?.terminate();
  [ready, busy, failure] = [false, false, ""];
  say();
  get("loading").hidden = false;
  get("progress").value = 0;
  get("progress-size").textContent = "";
  get("device").value = device;
  status("Loading…");
  // A worker with an address of its own would have its own policy: one from a blob is bound by this page's.
  const code = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  worker = new Worker(address, { type: "module" });
  worker.addEventListener("message", () => URL.revokeObjectURL(address), { once: true }); // it has been loaded
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
    if (webcamRuns()) nextFrame(source, update);
    else if (changed) update();
    else status("Ready.");
  },
  error({ during, message }, device) {
    busy = false;
    if (during === "start" && device === "webgpu") {
      start("wasm");
      say(`The GPU could not be used (${message}), so the network runs on the CPU.`);
    } else if (during === "start") fail(`The demo could not be started: ${message}. Reload the page to try again.`);
    else {
      if (webcamRuns()) choose(lastFrame(source)); // else the next frames would fail, too
      else status("Ready.");
      say(`This image could not be inverted: ${message}.`);
    }
  },
};

/** Send the current image to the worker, or once it has finished the one before. */
function update() {
  if (!ready || !source) return;
  if (busy) {
    changed = true;
    return;
  }
  [busy, changed] = [true, false];
  status(webcamRuns() ? "Webcam is running." : "Computing…");
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

/** Show a bitmap, a video or a canvas in place of the source before. */
function choose(picture, name = "") {
  if (webcamRuns()) closeCamera(source);
  if (source instanceof ImageBitmap) source.close(); // else its memory stays until the garbage is collected
  [source, example] = [picture, name];
  get("example").value = name;
  get("camera").classList.toggle("running", webcamRuns());
  get("camera").textContent = webcamRuns() ? "Stop the webcam" : "Use the webcam";
  update();
}

/**
 * Show what a handler opens, unless another source has been chosen while it did so. Failures are sentences on the page.
 *
 * @param {() => Promise<ImageBitmap | HTMLVideoElement>} open
 * @param {string} name Of the example, if it is one.
 * @param {string} note A sentence that is shown beside the image.
 */
async function chooseOnceOpen(open, name = "", note = undefined) {
  const choice = ++choices;
  say();
  try {
    const picture = await open();
    if (choice === choices) {
      choose(picture, name);
      say(note);
    } else if (picture instanceof ImageBitmap) picture.close();
    else closeCamera(picture);
  } catch (error) {
    if (!(error instanceof SourceError)) throw error;
    if (choice !== choices) return;
    get("example").value = example;
    say(error.message);
  }
}

function chooseFiles([file, ...others]) {
  if (!file) return;
  const note = others.length ? `Of ${others.length + 1} files, the first is shown: ${file.name}.` : undefined;
  chooseOnceOpen(() => readFile(file), "", note);
}

function chooseExample(name) {
  const path = `examples/${name}.jpg`;
  const open = async () => {
    const bytes = await download(path).catch((error) => {
      throw new SourceError(`${error.message}.`);
    });
    return readFile(new File([bytes], path));
  };
  return chooseOnceOpen(open, name);
}

function toggleCamera() {
  if (!webcamRuns()) {
    const disconnected = (video) => {
      if (source === video) choose(lastFrame(video));
      say("The webcam was disconnected.");
    };
    chooseOnceOpen(() => openCamera(disconnected));
    return;
  }
  choices++;
  say();
  choose(lastFrame(source));
}

// ---- Controls ----

function showSettings() {
  for (const [id, unit] of [["size", "pixels"], ["dropout", "%"]]) {
    const text = `${get(id).value} ${unit}`;
    get(`${id}-value`).textContent = text;
    get(id).setAttribute("aria-valuetext", text);
  }
}

function listen() {
  get("example").append(new Option("—", "", true, true));
  get("example").firstChild.disabled = true;
  for (const [name, title] of Object.entries(EXAMPLES)) get("example").append(new Option(title, name));
  get("example").onchange = () => chooseExample(get("example").value);
  get("file").onchange = () => {
    chooseFiles(get("file").files);
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
    chooseFiles(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => chooseFiles(event.clipboardData.files));
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
  const address = URL.createObjectURL(new Blob([]));
  new Worker(address, options).terminate();
  URL.revokeObjectURL(address);
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
