// Runs block programs on the host: files in, every order of a phase's threads, files out.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/block_program.h"

namespace host_run {

inline void fail(const std::string& problem) {
    std::fprintf(stderr, "%s\n", problem.c_str());
    std::exit(1);
}

/// A whole file as values of one type.
template <class Value>
std::vector<Value> read(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    if (file == nullptr) {
        fail(std::string("cannot open ") + path);
    }
    std::vector<Value> values;
    Value value;
    while (std::fread(&value, sizeof(Value), 1, file) == 1) {
        values.push_back(value);
    }
    std::fclose(file);
    return values;
}

template <class Value>
void write(const char* path, const std::vector<Value>& values) {
    std::FILE* file = std::fopen(path, "wb");
    if (file == nullptr || std::fwrite(values.data(), sizeof(Value), values.size(), file) != values.size()) {
        fail(std::string("cannot write ") + path);
    }
    std::fclose(file);
}

/// "forward", "reverse" or "shuffled".
inline preimage::ThreadOrder order_named(const std::string& name) {
    return name == "forward"   ? preimage::ThreadOrder::forward
           : name == "reverse" ? preimage::ThreadOrder::reverse
                               : preimage::ThreadOrder::shuffled;
}

}  // namespace host_run
