// Sources of images: example photographs, files and the webcam.

/** A failure with a sentence for the page. */
export class SourceError extends Error {}

const MAX_BYTES = 64 * 2 ** 20;

/** Return the image in a file. Throws SourceError for anything else. */
export async function readFile(file) {
  if (file.size > MAX_BYTES) {
    throw new SourceError(`${file.name} has ${Math.round(file.size / 2 ** 20)} MiB; files may have up to 64 MiB.`);
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new SourceError(
      `${file.name || "The file"} is not an image that this browser can read. JPEG, PNG, WebP and GIF work everywhere.`,
    );
  }
  const { width, height } = bitmap;
  if (Math.min(width, height) < 16) {
    bitmap.close();
    throw new SourceError(`${file.name} has ${width} × ${height} pixels; at least 16 × 16 are needed.`);
  }
  return bitmap;
}

/**
 * Start the webcam; return a playing video. Throws SourceError with the reason if there is none.
 *
 * @param {(video: HTMLVideoElement) => void} onDisconnected
 */
export async function openCamera(onDisconnected) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new SourceError("Browsers allow the webcam only on pages that are loaded by https, or from this computer.");
  }
  const video = document.createElement("video");
  try {
    const wanted = { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" };
    const stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
    stream.getVideoTracks()[0].onended = () => onDisconnected(video);
    await video.play();
  } catch (error) {
    closeCamera(video);
    const reasons = {
      NotAllowedError: "The webcam is not allowed. You can change this in the browser’s settings for this page.",
      NotFoundError: "No webcam was found.",
      NotReadableError: "The webcam does not answer; another program may be using it.",
    };
    throw new SourceError(reasons[error.name] ?? `The webcam could not be started (${error.name}).`);
  }
  return video;
}

/** Stop the webcam. */
export function closeCamera(video) {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

/** Call back once the video has another frame. */
export function nextFrame(video, callback) {
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(callback);
  else requestAnimationFrame(callback);
}

const scratch = document.createElement("canvas");
const context = scratch.getContext("2d", { willReadFrequently: true });

/**
 * Return the pixels of a bitmap or video, scaled to a shorter side of `size` and cropped at the center: to whole cells
 * of 8 pixels, and to 16:9 at most.
 *
 * @returns {ImageData}
 */
export function pixelsOf(source, size) {
  const isVideo = source instanceof HTMLVideoElement;
  const [width, height] = isVideo ? [source.videoWidth, source.videoHeight] : [source.width, source.height];
  const scale = size / Math.min(width, height);
  const side = (pixels) => 8 * Math.round(Math.min(pixels * scale, (size * 16) / 9) / 8);
  [scratch.width, scratch.height] = [side(width), side(height)];
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff"; // behind transparent images
  context.fillRect(0, 0, scratch.width, scratch.height);
  if (isVideo) context.setTransform(-1, 0, 0, 1, scratch.width, 0); // as in a mirror
  const cover = Math.max(scratch.width / width, scratch.height / height);
  const [wide, high] = [width * cover, height * cover];
  context.drawImage(source, (scratch.width - wide) / 2, (scratch.height - high) / 2, wide, high);
  return context.getImageData(0, 0, scratch.width, scratch.height);
}

/** Return the frame that is shown as a canvas, mirrored as it is shown. */
export function lastFrame(video) {
  const pixels = pixelsOf(video, Math.min(video.videoWidth, video.videoHeight));
  const still = document.createElement("canvas");
  Object.assign(still, { width: pixels.width, height: pixels.height });
  still.getContext("2d").putImageData(pixels, 0, 0);
  return still;
}
