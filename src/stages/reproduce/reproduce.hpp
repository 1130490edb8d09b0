#pragma once
// Instances made again from what the library says of them: the same weights, prompt, seed, sampler and steps through
// the same stages, compared with what is there.

#include <cstdint>
#include <string>
#include <vector>

#include "stages/common/context.hpp"
#include "stages/reproduce/compare.hpp"

namespace divergen::stages {

struct ReproduceOptions {
  std::vector<std::string> items;  // ids as 16 hex digits
  std::int64_t count = 0;          // without items: so many, spread evenly over the library
};

/// An instance is made within the batches that it was made in.
/// Collective; the ranks share out the instances. Rank 0 prints one JSON object on stdout. Equal means equal bytes on
/// the same kind of device (design §3.1); elsewhere the differences tell how far off it is. Throws Error(Usage) for an
/// id that is not in the library, Error(Data) when weights, settings or plan are not those of the instance, or when an
/// instance came out otherwise.
void run_reproduce(const RunContext& context, const ReproduceOptions& options);

}  // namespace divergen::stages
