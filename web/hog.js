// HOG of the pixels of a canvas, by the kernel in hog.wasm (hog.cpp). Runs in browsers and in Node.

/**
 * Compile and start the kernel.
 *
 * @param {BufferSource} bytes Content of hog.wasm.
 * @returns {Promise<(pixels: Uint8ClampedArray, width: number, height: number) =>
 *   {features: Float32Array, rows: number, columns: number}>} A function from (height, width, 4) RGBA pixels to features
 *   (31, rows, columns), `preimage.hog` of the RGB channels. It throws a RangeError for images without a cell.
 */
export async function loadHog(bytes) {
  // What the C++ library asks of a system: it reads an environment variable, and ends the program on errors.
  const imports = {
    env: { emscripten_notify_memory_growth: () => {} },
    wasi_snapshot_preview1: {
      environ_sizes_get(count, size) {
        const view = new DataView(kernel.memory.buffer);
        view.setUint32(count, 0, true);
        view.setUint32(size, 0, true);
        return 0;
      },
      environ_get: () => 0,
      proc_exit(code) {
        throw new Error(`the HOG kernel ended with code ${code}`);
      },
    },
  };
  const { instance } = await WebAssembly.instantiate(bytes, imports);
  const kernel = instance.exports;
  kernel._initialize();

  return (pixels, width, height) => {
    const rows = kernel.hog_cells(height);
    const columns = kernel.hog_cells(width);
    if (rows < 1 || columns < 1) throw new RangeError(`an image needs at least 4 × 4 pixels, got ${width} × ${height}`);
    if (pixels.length !== 4 * width * height) {
      throw new RangeError(`expected ${4 * width * height} bytes of RGBA pixels, got ${pixels.length}`);
    }
    const count = 31 * rows * columns;
    const input = kernel.malloc(pixels.length);
    const output = kernel.malloc(4 * count);
    try {
      if (input === 0 || output === 0) throw new RangeError(`no memory for an image of ${width} × ${height} pixels`);
      new Uint8Array(kernel.memory.buffer, input, pixels.length).set(pixels);
      kernel.hog(input, height, width, output);
      // The kernel may have grown its memory, which makes earlier views of it invalid.
      return { features: new Float32Array(kernel.memory.buffer, output, count).slice(), rows, columns };
    } finally {
      kernel.free(input);
      kernel.free(output);
    }
  };
}
