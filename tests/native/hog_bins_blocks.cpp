// HOG's quick choice of bins: ORDER INPUT OUTPUT. For each gradient (gx, gy), the quick bin, whether it is certain, and
// the exact bin; -1 for all of these if its vote has length zero.
#include "hog/hog_block_math.h"
#include "host_run.h"

using namespace preimage::hog;

int main(int count, char** arguments) {
    if (count != 4) {
        host_run::fail("wrong number of arguments");
    }
    struct Pair {
        float gx, gy;
    };
    std::vector<float> results;
    for (const Pair& pair : host_run::read<Pair>(arguments[2])) {
        const QuickBin quick = quick_bin(pair.gx, pair.gy, quick_length(pair.gx, pair.gy));
        if (quick.bin < 0 || quick.bin > kBins) {
            host_run::fail("a quick bin that does not exist");
        }
        const bool votes = quick_length(pair.gx, pair.gy) != 0.0f;
        results.push_back(votes ? static_cast<float>(quick.bin % kBins) : -1.0f);
        results.push_back(votes ? static_cast<float>(quick.certain) : -1.0f);
        results.push_back(votes ? static_cast<float>(orientation_bin(pair.gx, pair.gy)) : -1.0f);
    }
    host_run::write(arguments[3], results);
}
