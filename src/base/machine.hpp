#pragma once
// The machine that this process runs on, and what it has used of it.

#include <string>

namespace divergen {

/// Model of the processor as Linux tells it ("AMD EPYC 7763"), or "unknown processor".
std::string processor_name();

/// Processor time of all threads of this process so far, the kernel's share included.
double processor_seconds();

}  // namespace divergen
