#!/usr/bin/env bash
# Tests of the descriptors on a native module built with sanitizers; any report fails them.
# Usage: tests/helpers/sanitize.sh asan|tsan [PYTHON [ARGUMENT...]]
# PYTHON has preimage and its test dependencies; with ARGUMENTs it runs these instead of the tests.
#   asan: AddressSanitizer and UndefinedBehaviorSanitizer, all tests of the kernels, and calls as the fuzzer makes them
#         (MUTATIONS=10000 for more)
#   tsan: ThreadSanitizer, the tests with threads (CALLS=20000 for more)
# The tests go through every instruction set of the processor; PREIMAGE_ISA chooses that of the others.
set -euo pipefail
cd "$(dirname "$0")/../.."
preset=${1:-asan}
python=$(command -v "${2:-python3}")
bin=$(dirname "$python")
cmake=$(PATH="$bin:$PATH" command -v cmake)
generator=$(PATH="$bin:$PATH" command -v ninja >/dev/null && echo Ninja || echo "Unix Makefiles")

PATH="$bin:$PATH" "$cmake" --preset "$preset" -G "$generator" -DPython_EXECUTABLE="$python" >/dev/null
PATH="$bin:$PATH" "$cmake" --build --preset "$preset"

# The package as it is here, with the module just built.
package=build/$preset/package
rm -rf "$package"
mkdir -p "$package"
cp -r python/preimage "$package/"
rm -f "$package"/preimage/ops/_native.*.so
cp build/"$preset"/_native.*.so "$package/preimage/ops/"
site=$("$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")

# Python itself was built without the sanitizers, so their library is loaded before it. Leaks are not looked for:
# the interpreter keeps what it likes; tests/test_leaks.py watches the memory instead.
compiler=${CXX:-c++}
library() { "$compiler" -print-file-name="$1"; }
if [ "$preset" = tsan ]; then
    runtime=$(library libtsan.so)
    # A forked child of a process with threads is what DataLoader's workers are.
    export TSAN_OPTIONS=halt_on_error=1:die_after_fork=0:report_signal_unsafe=0:suppressions=$PWD/tests/helpers/tsan.supp
    tests=(tests/ops/test_*_threads.py)
    skipped="forked"
else
    # A C++ exception thrown inside a library opened later needs the C++ runtime's symbols at start-up.
    runtime="$(library libasan.so) $(library libubsan.so) $(library libstdc++.so.6)"
    # Memory that there is not is an exception, as without the sanitizer.
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0:halt_on_error=1:strict_string_checks=1:allocator_may_return_null=1
    export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    # All that call the native module. A pattern without a file is an error of pytest's, not fewer tests.
    tests=(tests/ops/test_{descriptor_*,native_*,hog,lbp,dense_sift,phow,sift,sift_*}.py tests/fuzz)
    skipped="compile or test_target and not native"
fi
# -S: no .pth files, so that an editable installation of the package does not come first.
export LD_PRELOAD="$runtime" PYTHONPATH="$PWD/$package:$site:$PWD/tests:$PWD/tests/helpers"
if [ $# -gt 2 ]; then
    exec "$python" -S "${@:3}"
fi
exec "$python" -S -m pytest -q -s -p no:cacheprovider "${tests[@]}" -k "not ($skipped)"
