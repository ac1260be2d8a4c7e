// Files of this page, downloaded with their progress.

/**
 * Download a file that lies beside this module.
 *
 * @param {string} name
 * @param {(bytes: number) => void} onBytes Called with the number of bytes of each piece that arrives.
 * @returns {Promise<Uint8Array>}
 */
export async function download(name, onBytes = () => {}) {
  const unreachable = () => {
    throw new Error(`${name} could not be loaded: the server cannot be reached`);
  };
  const response = await fetch(new URL(name, import.meta.url)).catch(unreachable);
  if (!response.ok) throw new Error(`${name} could not be loaded: the server answered ${response.status}`);
  const pieces = [];
  let size = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read().catch(unreachable); // the connection may end at any time
    if (done) break;
    pieces.push(value);
    size += value.length;
    onBytes(value.length);
  }
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}
