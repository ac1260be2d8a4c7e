#!/usr/bin/env bash
# HOG's tests on a native module built with AddressSanitizer and UndefinedBehaviorSanitizer; any report fails them.
# Usage: tests/sanitize.sh [PYTHON]   (a Python that has preimage and its test dependencies)
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v "${1:-python3}")
bin=$(dirname "$python")
cmake=$(PATH="$bin:$PATH" command -v cmake)
generator=$(PATH="$bin:$PATH" command -v ninja >/dev/null && echo Ninja || echo "Unix Makefiles")

PATH="$bin:$PATH" "$cmake" --preset asan -G "$generator" -DPython_EXECUTABLE="$python" >/dev/null
PATH="$bin:$PATH" "$cmake" --build --preset asan

# The package as it is here, with the module just built.
package=build/asan/package
rm -rf "$package"
mkdir -p "$package"
cp -r python/preimage "$package/"
cp build/asan/_native.* "$package/preimage/"
site=$("$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")

# Python itself was built without the sanitizers, so their library is loaded before it. Leaks are not looked for:
# the interpreter keeps what it likes; tests/test_hog_threads.py watches the memory instead.
compiler=${CXX:-c++}
runtime="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libubsan.so)"
# A C++ exception thrown inside a library opened later needs the C++ runtime's symbols at start-up.
runtime="$runtime $("$compiler" -print-file-name=libstdc++.so.6)"
# -S: no .pth files, so that an editable installation of the package does not come first.
LD_PRELOAD="$runtime" \
    ASAN_OPTIONS=detect_leaks=0:halt_on_error=1:strict_string_checks=1 \
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    PYTHONPATH="$PWD/$package:$site" \
    "$python" -S -m pytest -q -p no:cacheprovider tests/test_hog.py tests/test_hog_input.py \
    tests/test_hog_properties.py tests/test_hog_threads.py -k "not memory_does_not_grow"
