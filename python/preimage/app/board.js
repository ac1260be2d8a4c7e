// Runs in the page for each of its two HTML components: the board (photograph, features, reconstruction, eraser) and
// the second photograph. `element`, `trigger`, `props` and `watch` are given by gradio.
const SIDE = 64; // rows and columns of the mask, as in settings.py
const MAX_BYTES = 32 << 20; // as in photographs.py
const one = (selector) => element.querySelector(selector);
const all = (selector) => Array.from(element.querySelectorAll(selector));
const isBoard = one(".pi-board") !== null;
const message = one(".pi-message");
const say = (text) => { message.textContent = text; message.hidden = !text; };

// Photographs: chosen, dropped, pasted, or from the webcam.

const state = { photograph: "", erased: "" };
const send = () => { props.value = isBoard ? JSON.stringify(state) : state.photograph; trigger("input"); };

async function upload(blob, name) {
  if (!blob) return;
  if (blob.size > MAX_BYTES) { say(`${name}: a file may have at most ${MAX_BYTES >> 20} MB`); return; }
  element.classList.add("pi-busy");
  try {
    const sent = await fetch("photographs", {
      method: "POST", body: blob, headers: { "X-Preimage-Name": encodeURIComponent(name) },
    });
    const answer = await sent.json();
    if (!sent.ok) { say(answer.error); return; }
    say("");
    stopWebcam();
    state.photograph = answer.photograph;
    if (!isBoard) showSecond(URL.createObjectURL(blob));
    element.classList.add("pi-filled");
    send();
  } catch (error) {
    say(`The photograph could not be sent: ${error.message}`);
  } finally {
    element.classList.remove("pi-busy");
  }
}

function showSecond(url) {
  one("img").src = url;
  one("img").hidden = false;
}

const files = one("input[type=file]");
files.addEventListener("change", () => { const file = files.files[0]; files.value = ""; if (file) upload(file, file.name); });
for (const button of all(".pi-choose")) button.addEventListener("click", () => files.click());
const target = one(".pi-drop");
for (const name of ["dragenter", "dragover"]) {
  target.addEventListener(name, (event) => { event.preventDefault(); target.classList.add("pi-over"); });
}
for (const name of ["dragleave", "drop"]) target.addEventListener(name, () => target.classList.remove("pi-over"));
target.addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer.files[0];
  if (file) upload(file, file.name); else say("Drop a file: links to other pages are not opened.");
});
if (isBoard) {
  document.addEventListener("paste", (event) => {
    const file = Array.from(event.clipboardData.files)[0];
    if (file) upload(file, file.name);
  });
}

const video = one("video");
let stream = null;
function stopWebcam() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  if (video) video.srcObject = null;
  element.classList.remove("pi-live");
}
const webcam = one(".pi-webcam");
if (webcam) {
  webcam.addEventListener("click", async () => {
    if (stream) { stopWebcam(); return; }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 640 } });
      video.srcObject = stream;
      await video.play();
      element.classList.add("pi-live");
      say("");
      one(".pi-shoot").focus();
    } catch (error) {
      stopWebcam();
      say(`The webcam cannot be used: ${error.message}`);
    }
  });
  one(".pi-shoot").addEventListener("click", () => {
    const still = document.createElement("canvas");
    [still.width, still.height] = [video.videoWidth, video.videoHeight];
    still.getContext("2d").drawImage(video, 0, 0);
    still.toBlob((blob) => upload(blob, "webcam.png"), "image/png");
  });
}

if (isBoard) startBoard();

// The board: pictures from the server, and the eraser over two of them.

function startBoard() {
  const mask = new Uint8Array(SIDE * SIDE);
  const canvases = all("canvas");
  const brush = one(".pi-brush");
  const modes = all("[data-mode]");
  const cursor = { row: SIDE / 2, column: SIDE / 2 };
  let mode = "erase", painting = false, last = null, sentAt = 0, timer = 0;

  const digits = () => {
    if (!mask.includes(1)) return "";
    let text = "";
    for (let k = 0; k < mask.length; k += 4) {
      text += (8 * mask[k] + 4 * mask[k + 1] + 2 * mask[k + 2] + mask[k + 3]).toString(16);
    }
    return text;
  };
  const sendMask = () => {
    clearTimeout(timer);
    const wait = Math.max(0, sentAt + 150 - performance.now()); // while the mouse moves, not more often
    timer = setTimeout(() => {
      sentAt = performance.now();
      const now = digits();
      if (now !== state.erased) { state.erased = now; if (state.photograph) send(); }
    }, wait);
  };

  function redraw() {
    for (const canvas of canvases) {
      const context = canvas.getContext("2d");
      const pixels = context.createImageData(SIDE, SIDE);
      for (let k = 0; k < mask.length; k++) {
        if (mask[k]) pixels.data.set([214, 60, 40, 150], 4 * k);
      }
      context.putImageData(pixels, 0, 0);
      if (document.activeElement === canvas && canvas.matches(":focus-visible")) {
        const size = Math.max(2, Number(brush.value));
        context.strokeStyle = "#fff";
        context.strokeRect(cursor.column - size / 2 + 0.5, cursor.row - size / 2 + 0.5, size, size);
      }
    }
  }
  function paint(row, column) {
    const radius = Number(brush.value) / 2;
    for (let r = Math.max(0, Math.floor(row - radius)); r <= Math.min(SIDE - 1, Math.ceil(row + radius)); r++) {
      for (let c = Math.max(0, Math.floor(column - radius)); c <= Math.min(SIDE - 1, Math.ceil(column + radius)); c++) {
        if ((r - row) ** 2 + (c - column) ** 2 <= radius ** 2 + 0.25) mask[r * SIDE + c] = mode === "erase" ? 1 : 0;
      }
    }
  }
  function line(from, to) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let k = 0; k <= steps; k++) {
      paint(from[0] + (k / steps) * (to[0] - from[0]), from[1] + (k / steps) * (to[1] - from[1]));
    }
    redraw();
    sendMask();
  }
  function place(canvas, event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientY - box.top) / box.height) * SIDE - 0.5, ((event.clientX - box.left) / box.width) * SIDE - 0.5];
  }
  for (const canvas of canvases) {
    canvas.addEventListener("pointerdown", (event) => {
      if (!state.photograph || element.classList.contains("pi-vectors")) return;
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      painting = true;
      last = place(canvas, event);
      line(last, last);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!painting) return;
      const next = place(canvas, event);
      line(last, next);
      last = next;
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { painting = false; });
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    canvas.addEventListener("keydown", (event) => {
      const move = moves[event.key];
      if (move) {
        cursor.row = Math.min(SIDE - 1, Math.max(0, cursor.row + 2 * move[0]));
        cursor.column = Math.min(SIDE - 1, Math.max(0, cursor.column + 2 * move[1]));
        redraw();
      } else if (event.key === " " || event.key === "Enter") {
        if (state.photograph) line([cursor.row, cursor.column], [cursor.row, cursor.column]);
      } else {
        return;
      }
      event.preventDefault();
    });
    canvas.addEventListener("focus", redraw);
    canvas.addEventListener("blur", redraw);
  }
  for (const button of modes) {
    button.addEventListener("click", () => {
      mode = button.dataset.mode;
      for (const other of modes) other.setAttribute("aria-pressed", String(other === button));
    });
  }
  one(".pi-clear").addEventListener("click", () => { mask.fill(0); redraw(); sendMask(); });

  const show = () => {
    if (!props.pictures) return;
    const pictures = JSON.parse(props.pictures);
    say(pictures.message);
    if (!pictures.photograph) return;
    for (const name of ["photograph", "features", "reconstruction"]) {
      const image = one(`.pi-${name} img`);
      image.src = pictures[name] || "data:,";
      image.hidden = !pictures[name];
      one(`.pi-${name} .pi-caption`).textContent = pictures.captions[name];
    }
    one(".pi-pin").src = pictures.reconstruction;
    element.classList.toggle("pi-vectors", !pictures.is_map);
  };
  const seen = ([entry]) => element.classList.toggle("pi-away", state.photograph !== "" && !entry.isIntersecting);
  new IntersectionObserver(seen).observe(one(".pi-reconstruction"));
  watch("pictures", show);
  show();
}
