"""Build the browser demo into a folder that any web server can serve as it is.

    python web/build.py -o build/web

Needs emcc (Emscripten 3.1 or later), npm, and this package with scikit-image and onnx. Files from other projects are
downloaded by `npm ci`, which checks them against package-lock.json; the photographs come with scikit-image.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

WEB = Path(__file__).resolve().parent
ROOT = WEB.parent
PAGE = (
    "index.html",
    "style.css",
    "icon.svg",
    "modules.js",
    "app.js",
    "sources.js",
    "worker.js",
    "hog.js",
    "glyphs.js",
    "download.js",
)
RUNTIME = (
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
EXAMPLES = {"astronaut": "astronaut", "cat": "chelsea", "coffee": "coffee", "rocket": "rocket"}  # of scikit-image
INVERTER = "hog-compact"
KERNEL = ("web/hog.cpp", "csrc/hog/hog_cpu.cpp", "csrc/hog/hog_cpu_kernel.cpp", "csrc/common/dispatch.cpp")
# As in CMakeLists.txt, which explains them.
KERNEL_OPTIONS = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-DPREIMAGE_ISA=portable")


def compile_kernel(output: Path) -> None:
    """Compile HOG to WebAssembly without JavaScript of Emscripten's: hog.js starts it.

    Raises:
        subprocess.CalledProcessError: The compiler refuses a source.
    """
    command = [
        *("emcc", "-std=c++17", "-O3", "-msimd128", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", *KERNEL_OPTIONS),
        *(["-Werror"] if os.environ.get("CI") else []),  # other compilers have other warnings
        *(f"-I{ROOT / 'csrc'}", *(str(ROOT / name) for name in KERNEL), "-o", str(output)),
        *("--no-entry", "-sSTANDALONE_WASM", "-sFILESYSTEM=0", "-sALLOW_MEMORY_GROWTH"),
        "-sEXPORTED_FUNCTIONS=_hog,_hog_cells,_malloc,_free",
    ]
    subprocess.run(command, check=True)


def copy_runtime(folder: Path, packages: Path) -> None:
    """Copy ONNX Runtime Web's files, which npm downloads into `packages` and checks."""
    packages.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(WEB / name, packages / name)
    npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(npm, cwd=packages, check=True)
    folder.mkdir()
    for name in RUNTIME:
        # Many servers send .mjs with a type that browsers refuse for modules.
        copy = folder / name.replace(".mjs", ".js")
        shutil.copyfile(packages / "node_modules/onnxruntime-web/dist" / name, copy)


def write_examples(folder: Path) -> None:
    """Write scikit-image's photographs as JPEGs whose shorter side has at most 512 pixels."""
    import cv2  # noqa: PLC0415  (other parts of this file are used without these packages)
    import skimage.data  # noqa: PLC0415

    folder.mkdir()
    for name, source in EXAMPLES.items():
        image = getattr(skimage.data, source)()
        scale = min(1.0, 512 / min(image.shape[:2]))
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        if not cv2.imwrite(str(folder / f"{name}.jpg"), small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88]):
            raise OSError(f"{folder / name}.jpg could not be written")


def sources_digest() -> str:
    """Return a digest of everything in the repository that a build is made of, but the inverter."""
    digest = hashlib.sha256()
    folders = (ROOT / "csrc", ROOT / "csrc/common", ROOT / "csrc/hog")
    headers = (path.relative_to(ROOT).as_posix() for folder in folders for path in folder.glob("*.h"))
    ours = ("build.py", "package-lock.json", *PAGE)
    for name in sorted({*KERNEL, *headers, *(f"web/{own}" for own in ours)}):
        digest.update(f"{name}\0".encode() + (ROOT / name).read_bytes() + b"\0")
    return digest.hexdigest()


def build(output: Path, model: Path | None = None) -> None:
    """Build the demo; an earlier one in the folder is replaced once the new one is complete.

    Args:
        output: Folder of the demo.
        model: ONNX file of the inverter; by default it is exported.

    Raises:
        OSError: A tool is missing, or a file cannot be written.
        subprocess.CalledProcessError: A tool failed; it has said why.
    """
    for tool, package in (("emcc", "emscripten"), ("npm", "npm")):
        if shutil.which(tool) is None:
            raise FileNotFoundError(f"{tool} is not on the PATH; on Debian and Ubuntu it is in the package {package}")
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in PAGE:
        shutil.copyfile(WEB / name, partial / name)
    compile_kernel(partial / "hog.wasm")
    copy_runtime(partial / "ort", output.with_name(f"{output.name}-packages"))
    write_examples(partial / "examples")
    network = partial / f"{INVERTER}.onnx"
    if model is None:
        export = ["export", INVERTER, "-o", str(network), "--weights", "int8"]  # as they come with the package
        subprocess.run([sys.executable, "-m", "preimage", *export], check=True)
    else:
        shutil.copyfile(model, network)
    large = [path for path in sorted(partial.rglob("*")) if path.suffix in (".wasm", ".onnx")]
    sizes = {path.relative_to(partial).as_posix(): path.stat().st_size for path in large}
    text = json.dumps({"sources": sources_digest(), "sizes": sizes}, indent=2)
    (partial / "build.json").write_text(text + "\n", encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)


def main() -> None:
    """Parse the options and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "build/web", help="folder of the demo")
    parser.add_argument("--model", type=Path, help="ONNX file of the inverter, instead of exporting it")
    arguments = parser.parse_args()
    try:
        build(arguments.output, arguments.model)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"web/build.py: {error}")


if __name__ == "__main__":
    main()
